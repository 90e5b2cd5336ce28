"""Runs that are interrupted, killed and continued: exactly N games in the end, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Grove, processes_left

from workers.records import read_folder

MLP = ("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
GAMES = 400
RUN = ("selfplay", "--game", "hex:size=5", "--simulations", 60, "--workers", 2, "--games-per-worker", 8, *MLP)
Eventually = Callable[[Callable[[], Any]], Any]
pools = pytest.mark.parametrize("pool", ["thread", "process"])


def lines(out: Path) -> int:
    """Return how many games are on disk."""
    return sum(path.read_bytes().count(b"\n") for path in (out / "games").glob("*.jsonl"))


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the server and the workers of a run in the order they were started: children of the forkserver."""
    for child in psutil.Process(process.pid).children():
        if "forkserver import main" in " ".join(child.cmdline()):
            return sorted(child.children(), key=lambda one: (one.create_time(), one.pid))
    raise AssertionError("no forkserver")


def start(grove: Grove, eventually: Eventually, out: Path, pool: str, games: int = GAMES) -> subprocess.Popen[str]:
    """Start a run and return when some games are finished."""
    process = grove.start(*RUN, "--games", games, "--pool", pool, "--out", out)
    eventually(lambda: lines(out) >= 5 or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process


@pools
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on_to_exactly_n(
    grove: Grove, eventually: Eventually, pool: str
) -> None:
    out = grove.folder / "run"
    process = start(grove, eventually, out, pool)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    done = grove.end(process)
    assert (done.returncode, done.stderr) == (0, ""), done
    saved = lines(out)
    assert 5 <= saved < GAMES
    assert f"{saved} games are saved, {GAMES - saved} are left" in done.stdout
    assert grove.summary(out)["games"] == saved
    assert grove.summary(out)["games_left"] == GAMES - saved
    # Fewer in all than asked for before: the run need not be long to be continued to its exact end.
    goal = saved + 12
    grove.play(*RUN, "--games", goal, "--pool", pool, "--out", out)
    played = [record.index for record in grove.read(out)]
    assert len(set(played)) == len(played)
    assert set(range(goal)) <= set(played)


def test_ctrl_c_before_the_first_game(grove: Grove, eventually: Eventually) -> None:
    out = grove.folder / "run"
    process = grove.start(*RUN, "--games", 20, "--out", out)
    eventually((out / "config.toml").exists)
    os.killpg(process.pid, signal.SIGINT)
    done = grove.end(process)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert f"{20 - lines(out)} are left" in done.stdout
    grove.play(*RUN, "--games", 20, "--out", out)
    grove.exactly(out, range(20), "hex:size=5")


def test_a_killed_worker_process_is_replaced_and_the_run_ends_with_exactly_n(
    grove: Grove, eventually: Eventually
) -> None:
    out = grove.folder / "run"
    process = start(grove, eventually, out, "process", 80)
    children_of(process)[-1].kill()
    done = grove.end(process)
    assert (done.returncode, done.stderr) == (0, ""), done
    grove.exactly(out, range(80), "hex:size=5")
    summary = grove.summary(out)
    assert summary["workers_restarted"] == 1
    assert summary["games"] == 80
    assert "started again" in done.stdout
    assert "started again" in (out / "log.txt").read_text()


@pools
def test_a_killed_server_is_replaced_and_the_run_ends_with_exactly_n(
    grove: Grove, eventually: Eventually, pool: str
) -> None:
    out = grove.folder / "run"
    process = start(grove, eventually, out, pool, 80)
    children_of(process)[0].kill()
    done = grove.end(process)
    assert (done.returncode, done.stderr) == (0, ""), done
    grove.exactly(out, range(80), "hex:size=5")
    assert "the inference server is started again: it was killed" in done.stdout
    assert "computes again" in (out / "log.txt").read_text()
    assert grove.summary(out)["server_restarted"] == 1


@pools
def test_children_end_when_the_supervisor_is_killed(grove: Grove, eventually: Eventually, pool: str) -> None:
    out = grove.folder / "run"
    process = start(grove, eventually, out, pool)
    assert len(processes_left()) >= 3
    process.kill()
    process.communicate()
    eventually(lambda: not processes_left())
    goal = lines(out) + 5
    grove.play(*RUN, "--games", goal, "--pool", pool, "--out", out)
    assert len({record.index for record in grove.read(out)}) == len(grove.read(out)) >= goal


def test_a_torn_line_is_reported_and_its_game_is_played_again(grove: Grove) -> None:
    out = grove.folder / "run"
    run = ("selfplay", "--games", 6, "--simulations", 8, "--evaluator", "test", "--seed", 1, "--out", out)
    grove.play(*run)
    before = [(record.index, record.moves) for record in grove.read(out)]
    log = max((out / "games").glob("*.jsonl"), key=lambda path: path.stat().st_size)
    log.write_bytes(log.read_bytes()[:-20])
    assert "1 torn or damaged lines skipped" in grove.play(*run)
    assert sorted((record.index, record.moves) for record in read_folder(out / "games")) == before
