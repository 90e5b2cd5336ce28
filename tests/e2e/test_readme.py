"""Every command of the README, run in order as it stands there, with smaller numbers where it would take minutes."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 280.0
"""Hard limit on one command."""
SMALL_NETWORK = ("--network", "mlp:layers=1,width=8", "--compile", "off", "--dtype", "fp32", "--device", "cpu")
SMALLER = {"--games": "6", "--seconds": "3", "--simulations": "8", "--workers": "2", "--minutes": "0.2"}
"""Values that take the place of those in the README."""
MORE = {
    "bench compare": (*SMALL_NETWORK, "--modes", "server-thread", "--seconds", "2", "--probe-limit", "1"),
    "bench limit": (*SMALL_NETWORK, "--seconds", "3"),
    "selfplay": SMALL_NETWORK,
    "serve": SMALL_NETWORK,
    "tune": (*SMALL_NETWORK, "--simulations", "4", "--games-per-worker", "64"),
}
"""Flags that a command gets on top."""
SAYS = {
    "selfplay": "/min",
    "show": "result:",
    "report": "report.html",
    "data count": "hex:size=7: 6 games",
    "data stats": "seat 0: won",
    "doctor": "memory",
    "work": "games/min",
}
"""What a command prints, whatever the machine."""


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


GROVE = [line for line in commands() if line.startswith(".venv/bin/grove ")]


def name_of(words: list[str]) -> str:
    return " ".join(words[: 2 if words[0] in ("bench", "data", "model") else 1])


def command(line: str) -> list[str]:
    """Return the command line with this interpreter and smaller numbers."""
    words = shlex.split(line)[1:]
    for flag, value in SMALLER.items():
        if flag in words:
            words[words.index(flag) + 1] = value
    return [sys.executable, "-m", "grove", *words, *MORE.get(name_of(words), ())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which all of them run, one after another."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture
def server(folder: Path, line: str) -> Iterator[None]:
    """Run beside `line` what the README starts in another terminal for it."""
    if "grove work" not in line:
        yield
        return
    serve = next(line for line in GROVE if "grove serve" in line)
    with subprocess.Popen(command(serve), cwd=folder, stdout=subprocess.DEVNULL) as started:
        yield
        started.send_signal(signal.SIGINT)
        assert started.wait(LIMIT_S) == 0


@pytest.mark.parametrize("line", [line for line in GROVE if "grove serve" not in line])
@pytest.mark.usefixtures("server")
def test_command(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))  # where `tune` may write a preset
    words = command(line)
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert SAYS.get(name_of(words[3:]), "") in done.stdout
    if "--out" in words:
        assert (folder / words[words.index("--out") + 1]).exists()


def test_make_targets_exist() -> None:
    targets = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert {"selfplay", "test"} <= set(targets)
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_no_command_is_left_out() -> None:
    left = [line for line in commands() if line not in GROVE and not line.startswith("make ")]
    assert left == []
