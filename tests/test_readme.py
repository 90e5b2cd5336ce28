"""Every command of the README, run as it stands there, with smaller numbers where it would take minutes."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALLER = {"--games": "6", "--seconds": "6", "--simulations": "8", "--workers": "2", "--minutes": "0.2"}
NAMES = (
    *("selfplay", "show", "doctor", "serve", "work", "bench compare", "bench limit", "watch", "report", "tune"),
    *("data", "model list"),
)
SMALL_NETWORK = ("--network", "mlp:layers=1,width=8", "--compile", "off", "--dtype", "fp32")


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def grove(line: str) -> list[str]:
    """Return the command line with this interpreter and smaller numbers."""
    words = shlex.split(line)
    assert words[0] == ".venv/bin/grove"
    words = [sys.executable, "-m", "grove", *words[1:]]
    for flag, value in SMALLER.items():
        if flag in words:
            words[words.index(flag) + 1] = value
    return words


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_targets_exist() -> None:
    targets = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert targets == ["selfplay", "test", "chaos"]
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr


def lines_with(text: str) -> list[str]:
    return [line for line in commands() if text in line]


@pytest.mark.timeout(240)
def test_selfplay_then_what_can_be_done_with_a_run(tmp_path: Path) -> None:
    play, blob = lines_with("grove selfplay")
    assert "runs/hex7" in run(grove(play), tmp_path)
    assert "result:" in run(grove(lines_with("grove show")[0]), tmp_path)
    assert "finished" in run(grove(lines_with("grove watch")[0]), tmp_path)
    limit = [*grove(lines_with("bench limit")[0]), *SMALL_NETWORK, "--seconds", "3"]
    assert "bound" in run(limit, tmp_path)
    assert "report.html" in run(grove(lines_with("grove report")[0]), tmp_path)
    assert "default  serves" in run(grove(lines_with("grove model")[0]), tmp_path)
    assert "rounds/min" in run([*grove(blob), *SMALL_NETWORK], tmp_path)
    count, stats = lines_with("grove data")
    assert "hex:size=7: 6 games (+6/5,000)" in run(grove(count), tmp_path)
    assert "seat 0: won" in run(grove(stats), tmp_path)


def test_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    words = [*grove(lines_with("grove tune")[0]), *SMALL_NETWORK, "--simulations", "4", "--name", "mine"]
    words += ["--probe-limit", "1"]  # the machine that runs the tests need not be quiet
    said = run([*words, "--games-per-worker", "64", "--device", "cpu", "--out", "out"], tmp_path)
    assert "use it as `grove selfplay --preset mine`" in said
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["finding"] in said
    assert results["preset"] == str(tmp_path / "grove" / "presets" / "mine.toml")
    again = [*words[:3], "selfplay", "--preset", "mine", "--games", "4", "--out", "again"]
    assert "games/min" in run(again, tmp_path)


def test_doctor(tmp_path: Path) -> None:
    assert "memory" in run(grove(lines_with("doctor")[0]), tmp_path).lower()


def test_serve_and_work(tmp_path: Path) -> None:
    serve, work = lines_with("grove serve")[0], lines_with("grove work")[0]
    server = subprocess.Popen([*grove(serve), *SMALL_NETWORK], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        assert "games/min" in run(grove(work), tmp_path)
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [0, 1])
def test_compare(tmp_path: Path, number: int) -> None:
    words = [*grove(lines_with("bench compare")[number]), *SMALL_NETWORK]
    words += ["--modes", "server-thread", "--seconds", "2", "--probe-limit", "1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / words[words.index("--out") + 1] / "chart.png").exists()


def test_no_command_is_left_out() -> None:
    tested = ("make ", *(f"grove {name}" for name in NAMES))
    assert [line for line in commands() if not any(name in line for name in tested)] == []
