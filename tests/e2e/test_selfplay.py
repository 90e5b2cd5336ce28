"""Runs that are interrupted, killed and continued: exactly N games in the end, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.support.command import Grove
from tests.support.left_behind import processes_left

MLP = ("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
RUN = ("selfplay", "--game", "hex:size=5", "--simulations", 60, "--workers", 2, "--games-per-worker", 8, *MLP)
Eventually = Callable[[Callable[[], Any]], Any]
pools = pytest.mark.parametrize("pool", ["thread", "process"])


class Run(NamedTuple):
    """A run folder and the command that plays in it, all but the number of games."""

    out: Path
    command: tuple[object, ...]


def lines(out: Path) -> int:
    """Return how many games are on disk."""
    return sum(path.read_bytes().count(b"\n") for path in (out / "games").glob("*.jsonl"))


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the server and the workers of a run in the order they were started: children of its fork servers."""
    fork_servers = [one for one in psutil.Process(process.pid).children() if "forkserver" in " ".join(one.cmdline())]
    assert fork_servers
    found = [child for fork_server in fork_servers for child in fork_server.children()]
    return sorted(found, key=lambda one: (one.create_time(), one.pid))


def start(grove: Grove, eventually: Eventually, run: Run) -> subprocess.Popen[str]:
    """Start a run of very many games and return when some more are finished."""
    goal = lines(run.out) + 5
    process = grove.start(*run.command, "--games", 100_000)
    eventually(lambda: lines(run.out) >= goal or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process


def interrupt(grove: Grove, run: Run, process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C; return what the run said to its end, which must tell how many games are left."""
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    done = grove.end(process)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert f"{100_000 - lines(run.out)} are left" in done.stdout
    return done.stdout


@pools
def test_a_run_that_is_killed_harmed_and_interrupted_is_continued_to_exactly_n(
    grove: Grove, eventually: Eventually, pool: str
) -> None:
    out = grove.folder / "run"
    run = Run(out, (*RUN, "--pool", pool, "--out", out))
    if pool == "thread":  # no worker has been started then in either
        ctrl_c_before_the_first_game(grove, eventually, run)
    children_end_when_the_supervisor_is_killed(grove, eventually, run)
    process = start(grove, eventually, run)
    if pool == "process":
        a_killed_worker_is_replaced(eventually, run, process)
    a_killed_server_is_replaced(eventually, run, process)
    said = interrupt(grove, run, process)
    assert f"{lines(out)} games are saved" in said
    assert "the inference server is started again: it was killed" in said
    summary = grove.summary(out)
    assert summary["games_left"] == 100_000 - lines(out)
    assert (summary["server_restarted"], summary["workers_restarted"]) == (1, int(pool == "process"))
    goal = max(record.index for record in grove.read(out)) + 5
    grove.play(*run.command, "--games", goal)
    grove.exactly(out, range(goal), "hex:size=5")


def ctrl_c_before_the_first_game(grove: Grove, eventually: Eventually, run: Run) -> None:
    process = grove.start(*run.command, "--games", 100_000)
    eventually((run.out / "config.toml").exists)
    interrupt(grove, run, process)


def children_end_when_the_supervisor_is_killed(grove: Grove, eventually: Eventually, run: Run) -> None:
    process = start(grove, eventually, run)
    assert len(processes_left()) >= 3
    process.kill()
    process.communicate()
    eventually(lambda: not processes_left())


def a_killed_server_is_replaced(eventually: Eventually, run: Run, process: subprocess.Popen[str]) -> None:
    children_of(process)[0].kill()
    eventually(lambda: "computes again" in (run.out / "log.txt").read_text())


def a_killed_worker_is_replaced(eventually: Eventually, run: Run, process: subprocess.Popen[str]) -> None:
    before = children_of(process)
    before[1].kill()
    eventually(lambda: {*children_of(process)} - {*before})
    assert "worker 0 is started again: its process ended" in (run.out / "log.txt").read_text()
