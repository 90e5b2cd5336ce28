"""What every test leaves behind is nothing: no process, no thread, no socket folder."""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grove.common.machine import usable_cores
from tests.support.command import Grove
from tests.support.left_behind import describe, own_threads, processes_left, socket_folders

LEAVE_S = 60.0
"""Longest time that processes, threads and folders may take to go once a test is over."""
WAIT_S = 200.0
"""Hard limit on what comes eventually."""


def pytest_configure() -> None:
    """Give every process that runs tests beside others a session of its own (orphans are known by it), and signals."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        with contextlib.suppress(PermissionError):  # it leads one already
            os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):  # ignored in the background of a shell, and so by all children
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: many tests wait for the processes that they have started."""
    return usable_cores() + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs Grove as `slow`, and begin with the files that hold most of it, so that no core is idle at the
    end while another has one left."""
    for item in items:
        if "grove" in getattr(item, "fixturenames", ()) or item.path.parent.name == "e2e":
            item.add_marker("slow")
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def temporary_folder() -> Iterator[None]:
    """Give this session and every process it starts a temporary folder of its own."""
    multiprocessing.util.get_temp_dir()  # lives longer than this fixture
    former = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="gt") as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        yield
        os.environ.pop("TMPDIR")
        if former is not None:
            os.environ["TMPDIR"] = former
        tempfile.tempdir = None


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a process, a thread or a socket folder behind."""
    threads, processes, folders = own_threads(), processes_left(), socket_folders()
    yield
    deadline = time.monotonic() + LEAVE_S
    while time.monotonic() < deadline:
        left = [
            *(f"thread {thread.name}" for thread in own_threads() - threads),
            *(describe(process) for process in processes_left() - processes),
            *(str(folder) for folder in socket_folders() - folders),
        ]
        if not left:
            return
        time.sleep(0.02)
    for process in processes_left() - processes:
        process.kill()
    pytest.fail(f"left behind: {', '.join(left)}")


@pytest.fixture
def grove(tmp_path: Path) -> Iterator[Grove]:
    runner = Grove(tmp_path)
    yield runner
    runner.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait, within a hard limit, until a condition holds; return its value."""

    def wait(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WAIT_S
        while not (value := condition()):
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.01)
        return value

    return wait
