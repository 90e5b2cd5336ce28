"""Whole runs that are killed, interrupted or run out of disk: exactly N in the end, nobody and nothing left behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from grove.records.files import Problem
from grove.records.record import read_folder
from grove.run.lock import holder
from tests.e2e.test_selfplay import RUN, children_of, lines
from tests.grove.test_bad_input import SOUND
from tests.support.command import Grove
from tests.support.left_behind import processes_left

Eventually = Callable[[Callable[[], Any]], Any]
QUICK = (
    *("selfplay", "--game", "hex:size=4", "--evaluator", "test", "--workers", 2, "--games-per-worker", 16),
    *("--seed", 1),
)
SPEC = "hex:size=4"


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the only line on standard error of a run that ended with status 2."""
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1, done
    assert "Traceback" not in done.stdout, done
    return done.stderr


@pytest.mark.parametrize("flags", [("--pool", "thread", "--evaluator", "test"), ("--pool", "process")], ids=str)
def test_everything_killed_at_once_and_started_again_ends_with_exactly_n(
    grove: Grove, eventually: Eventually, flags: tuple[str, ...]
) -> None:
    out = grove.folder / "run"
    run = (*RUN, *flags, "--out", out)
    process = grove.start(*run, "--games", 100_000)
    eventually(lambda: lines(out) >= 5)
    all_of_it = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    random.Random(1).shuffle(all_of_it)
    for one in all_of_it:
        one.kill()
    process.communicate()
    goal = max(record.index for record in grove.read(out)) + 10
    grove.play_apart(*run, "--games", goal)
    grove.exactly(out, range(goal), "hex:size=5")


def test_a_run_started_while_children_of_the_killed_one_still_write_waits_for_them(
    grove: Grove, eventually: Eventually
) -> None:
    out = grove.folder / "run"
    run = (*QUICK, "--simulations", 50, "--pool", "process", "--out", out)
    process = grove.start(*run, "--games", 100_000)
    eventually(lambda: lines(out) >= 5)
    process.kill()
    process.wait()
    assert holder(out / "lock")[1] or not processes_left()  # the children hold it
    goal = lines(out) + 200
    grove.play(*run, "--games", goal)
    played = [record.index for record in grove.read(out)]
    assert len(played) == len(set(played)) >= goal
    process.communicate()


def test_a_drained_run_has_no_game_in_progress_and_leaves_the_rest(grove: Grove, eventually: Eventually) -> None:
    out = grove.folder / "run"
    process = grove.start(
        *(*QUICK, "--simulations", 400, "--games", 100_000, "--pool", "process", "--drain", "--out", out)
    )
    eventually(lambda: lines(out) >= 5)
    os.killpg(process.pid, signal.SIGTERM)  # a service manager sends it to all processes
    done = grove.end(process)
    assert (done.returncode, done.stderr) == (0, ""), done
    saved = lines(out)
    assert f"{saved} games are saved, {100_000 - saved} are left" in done.stdout
    assert "finishing the games in progress" in done.stdout
    assert len({record.index for record in grove.read(out)}) == saved


def test_a_second_signal_stops_at_once_and_loses_nothing_that_is_written(grove: Grove, eventually: Eventually) -> None:
    out = grove.folder / "run"
    process = grove.start(
        *(*QUICK, "--simulations", 50_000, "--games", 400, "--pool", "process", "--drain", "--out", out)
    )
    eventually(lambda: searching(process))
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout is not None
    while "finishing the games in progress" not in (said := process.stdout.readline()):
        assert said, process.communicate()
    assert process.poll() is None  # games of so many simulations take long
    os.killpg(process.pid, signal.SIGINT)
    done = grove.end(process)
    assert (done.returncode, done.stderr) == (130, ""), done
    assert f"{lines(out)} games are saved" in done.stdout


def searching(process: subprocess.Popen[str]) -> bool:
    """Return whether the workers of a run have used more of a processor than loading takes."""
    try:
        used = [sum(child.cpu_times()[:2]) for child in children_of(process)]
    except (AssertionError, psutil.NoSuchProcess):
        return False
    return len(used) == 2 and min(used) > 0.5


def forkserver_game(folder: Path, name: str, there: str) -> None:
    """Write a game of which the process that loads the kernels ahead does `there`."""
    text = f"""
import os
import pathlib
import sys
import time

if "forkserver" in " ".join(sys.orig_argv):
    pathlib.Path({str(folder / "loading")!r}).touch()
    {there}
"""
    (folder / f"{name}.py").write_text(text + SOUND)


@pytest.mark.parametrize("ends", ["interrupt", "kill"])
def test_a_run_that_ends_while_kernels_are_compiled_takes_everything_along(
    grove: Grove, eventually: Eventually, ends: str
) -> None:
    forkserver_game(grove.folder, f"patience_{ends}", "time.sleep(1000)")
    out = grove.folder / "run"
    run = ("selfplay", "--game", f"patience_{ends}:Sticks", "--evaluator", "test", "--out", out)
    process = grove.start(*run, "--pool", "process")
    eventually((grove.folder / "loading").exists)
    if ends == "kill":
        process.kill()
        process.communicate()
    else:
        os.killpg(process.pid, signal.SIGINT)
        done = grove.end(process)
        assert (done.returncode, done.stderr) == (0, ""), done
        assert "200 are left" in done.stdout
    eventually(lambda: not processes_left())


def test_a_crash_while_kernels_are_loaded_is_told_in_one_line(grove: Grove) -> None:
    forkserver_game(grove.folder, "crashing", "os._exit(3)")
    done = grove.run("selfplay", "--game", "crashing:Sticks", "--evaluator", "test", "--out", grove.folder / "run")
    assert "has ended while it loaded the game's kernels" in one_line(done)


# -- disks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(grove: Grove) -> Iterator[Path]:
    """A small file system of its own."""
    folder = grove.folder / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    grove.close()
    subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", "tmpfs", folder], check=True)


def test_a_full_disk_ends_the_run_with_one_line_and_it_goes_on_when_there_is_room(grove: Grove, disk: Path) -> None:
    run = (*QUICK, "--simulations", 8, "--pool", "process", "--out", disk / "run")
    done = grove.run(*run, "--games", 100_000)
    assert "No space left on device" in one_line(done)
    saved = lines(disk / "run")
    assert saved > 20
    assert len(grove.read(disk / "run")) == saved  # whole lines only
    assert f"{saved} games are saved" in done.stdout
    refused = one_line(grove.run(*run, "--games", saved + 20))
    assert "No space left" in refused
    remount(disk, "size=8m")
    goal = max(record.index for record in grove.read(disk / "run")) + 20
    grove.play(*run, "--games", goal)
    grove.exactly(disk / "run", range(goal), SPEC)


def test_a_vanished_folder_ends_the_run_with_one_line(grove: Grove, eventually: Eventually) -> None:
    out = grove.folder / "run"
    process = grove.start(*QUICK, "--simulations", 50, "--games", 100_000, "--out", out)
    eventually(lambda: lines(out) >= 5)
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)  # what was written meanwhile
    assert "cannot write" in one_line(grove.end(process))


def test_a_torn_tail_is_told_spoils_no_line_that_follows_and_its_game_is_played_again(grove: Grove) -> None:
    out = grove.folder / "run"
    run = (*QUICK, "--simulations", 8, "--fsync", "game", "--out", out)
    grove.play(*run, "--games", 6)
    before = grove.exactly(out, range(6), SPEC)
    logs = sorted((out / "games").glob("*.jsonl"))
    for log in logs:
        log.write_bytes(log.read_bytes()[:-30])
    assert f"{len(logs)} torn or damaged lines skipped" in grove.play(*run, "--games", 30)
    problems: list[Problem] = []
    records = sorted(read_folder(out / "games", problems), key=lambda record: record.index)
    assert [record.index for record in records] == list(range(30))
    assert [record.moves for record in records[:6]] == [record.moves for record in before]
    assert ["torn line" in problem.text for problem in problems] == [True] * len(logs)
