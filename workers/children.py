"""Child processes: how they start, and how they are made to end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver, reduction, resource_tracker, util
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from common.errors import PoolError
from common.scratch import claim, is_claimed, sweep
from workers.warm import FOLDER_VARIABLE, GAME_VARIABLE

_LOOK_S = 0.01
_GLANCE_S = 0.05
_DEATH_S = 1.0
"""Longest wait for the end of a killed process; one that waits for a disk or a network file ends later."""


class Child:
    """A process that was started; it can be ended even when the forkserver, which would tell of its end, is gone."""

    def __init__(self, process: BaseProcess) -> None:
        """Watch a process that has just been started."""
        assert process.pid is not None
        self.pid = process.pid
        self._process = process
        self._watched: psutil.Process | None = None
        with suppress(psutil.NoSuchProcess):
            self._watched = psutil.Process(process.pid)

    def kill(self) -> None:
        """End it at once, stopped or not."""
        if self._watched is not None:
            with suppress(psutil.NoSuchProcess):
                self._watched.kill()

    def has_ended(self, patience_s: float = 0.0) -> bool:
        """Wait up to `patience_s` for its end; return whether it has come."""
        deadline = time.monotonic() + patience_s
        while self._lives():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_S)
        self._process.join(_LOOK_S)  # so that multiprocessing forgets it, too
        return True

    def end(self, patience_s: float) -> bool:
        """Wait `patience_s` for its end, then kill it; return whether it has ended for certain."""
        if not self.has_ended(patience_s):
            self.kill()
        return self.has_ended(_DEATH_S)

    def is_stopped(self) -> bool:
        """Return whether somebody stopped it, so that it does nothing until it is continued."""
        try:
            return self._watched is not None and bool(self._watched.status() == psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False

    def processor_seconds(self, thread: int = 0) -> float | None:
        """Return the processor time it has used, or its thread of that native number; None where nobody can tell.

        That of a process includes what its children used: compilers, for which it waits.
        """
        if self._watched is None:
            return None
        try:
            if not thread:
                return _used_s(self._watched) + sum(_used_s(child) for child in self._watched.children(recursive=True))
            return next((t.user_time + t.system_time for t in self._watched.threads() if t.id == thread), None)
        except psutil.Error:
            return None

    def _lives(self) -> bool:
        try:
            if self._watched is None or not self._watched.is_running():
                return False
            # Once the main thread is a zombie, others may still hold sockets and locks for a moment.
            return bool(self._watched.status() != psutil.STATUS_ZOMBIE or self._watched.num_threads() > 1)
        except psutil.NoSuchProcess:
            return False


def _used_s(process: psutil.Process) -> float:
    """Return the processor time of a process and of its ended children; 0 once it has ended itself."""
    with suppress(psutil.NoSuchProcess):
        return float(sum(process.cpu_times()[:4]))
    return 0.0


class Held:
    """A descriptor that a child shall hold open too, for as long as it lives."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to a child by the way of multiprocessing's own pipes."""
        return _held, (reduction.DupFd(self.descriptor),)


def _held(duplicate: Any) -> Held:
    return Held(duplicate.detach())


def process_context(game_spec: str) -> Any:
    """Return the forkserver context with the game's kernels preloaded, or spawn where there is none."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    os.environ[GAME_VARIABLE] = game_spec
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workers.preload"])
    return context


def start_forkserver(context: Any) -> None:
    """Start the forkserver with SIGINT blocked: Ctrl-C reaches the whole terminal, also while it loads the kernels."""
    if context.get_start_method() != "forkserver":
        return
    folder = Path(util.get_temp_dir())  # where its socket will be
    os.environ[FOLDER_VARIABLE] = str(folder)
    if not is_claimed(folder):
        sweep()
        claim(folder)  # until this process ends
    resource_tracker.ensure_running()  # started by the forkserver otherwise, which would unblock SIGINT
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def start_child(process: BaseProcess) -> Child:
    """Start `process`. Raises PoolError when the forkserver cannot."""
    child = start_unless(process, lambda: False)
    assert child is not None, "nothing interrupts it"
    return child


def start_unless(process: BaseProcess, interrupted: Callable[[], bool]) -> Child | None:
    """Start `process`; None when `interrupted` said so first.

    The forkserver starts nothing before it has loaded the kernels: a minute or two with an empty cache.

    Raises PoolError when it has ended instead.
    """
    if interrupted():
        return None
    faults: list[Exception] = []

    def start() -> None:
        try:
            process.start()
        except Exception as error:
            faults.append(error)

    starting = threading.Thread(target=start, name="start-child")
    starting.start()
    while starting.is_alive() and not interrupted():
        starting.join(_GLANCE_S)
    if starting.is_alive():
        _kill_forkserver()
        starting.join()
    if not faults:
        return Child(process)
    if interrupted():
        return None
    why = "the process that starts workers has ended while it loaded the game's kernels"
    if not isinstance(faults[0], EOFError | ConnectionError):
        why = f"a process cannot be started ({faults[0]})"
    raise PoolError(f"{why}; see `grove doctor`") from faults[0]


def _kill_forkserver() -> None:
    number = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if number is not None:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def remove_socket_folder(endpoint: str) -> None:
    """Remove the folder of a private socket in place of a process that was killed."""
    if endpoint.startswith("ipc://"):
        shutil.rmtree(Path(endpoint.removeprefix("ipc://")).parent, ignore_errors=True)
