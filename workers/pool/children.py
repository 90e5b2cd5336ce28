"""Child processes, and how they are made to end; `fork_server.py` starts them."""

from __future__ import annotations

import time
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

_LOOK_S = 0.01
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
