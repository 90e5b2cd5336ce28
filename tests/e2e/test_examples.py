"""Every example runs from top to bottom, with small numbers, in a folder of its own, and says what it should."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import grove
from tests.support.command import ROOT

EXAMPLES = ROOT / "examples"
CASES = {
    "python_game.py": (("4",), r"4 games in runs.*seat 0 plays \d of \{.*ends with [+-]?[01]"),
    "compiled_game.py": (("20",), r"20 games in runs/.*, [\d,]+ games a minute"),
    "own_network.py": (("4",), r"4 games in runs/.*, played by model [0-9a-f]{16}"),
    "own_search.py": (("1", "12", "2"), r"results of the first seat: \[\[-?[01]\], \[-?[01]\]\]"),
    "read_games.py": (("run", "2"), r"policies \(\d+, 7\).*epoch 2: loss [\d.]+\nmodel [0-9a-f]{16}; play with it"),
    "two_machines.sh": (("6", "PORT"), r"connect_four: 6 games"),
}


def test_every_example_is_tested_and_short() -> None:
    files = [path for path in EXAMPLES.iterdir() if path.is_file()]
    assert {path.name for path in files} == set(CASES)
    assert all(len(path.read_text().splitlines()) <= 80 for path in files)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, said = CASES[name]
    if name == "read_games.py":
        monkeypatch.chdir(tmp_path)
        grove.selfplay("connect_four", games=3, simulations=8, evaluator="test", out="run", quiet=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = ["sh" if name.endswith(".sh") else sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        [port if word == "PORT" else word for word in command],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert re.search(said, done.stdout, re.DOTALL), done.stdout
