"""Stage timers: where the time of every thread goes by the wall clock, and how much of a processor it takes.

Nothing in the worker or the server knows of them: `grove.bench.profile.children` wraps bound methods in the processes
of a profile, and nowhere else. Time is exclusive: a stage that begins within another one interrupts it, so the stages
of a thread, `other` among them, sum up to all its time. A switch reads the wall clock only: asking for processor time
is a system call, which costs more and seems to draw the waiting of a busy machine to the stage that comes next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

OTHER = "other"
"""The stage of whatever no wrapper covers."""
PAUSED = "paused"
"""The stage of a worker that holds still between two slices; no part of a profile."""
PREFIX = "stage:"
"""What a worker's counters of stages begin with: ``stage:NAME:wall`` and ``:calls``."""
CPU = "thread_cpu_s"
"""A worker's counter of its thread's processor seconds."""
_COUNTS = ("wall", "calls")

Snapshot = dict[str, list[float]]
"""Stage -> [wall seconds, calls]."""


class Stages:
    """The stages of one thread; made and switched by that thread only."""

    def __init__(self) -> None:
        self._totals: Snapshot = {OTHER: [0.0, 0.0]}
        self._stage = OTHER
        self._wall = time.perf_counter()
        self._clock = _processor_clock()

    def enter(self, stage: str) -> str:
        """Begin `stage` and return the one it interrupts."""
        former = self._stage
        self._switch(stage)
        self._totals.setdefault(stage, [0.0, 0.0])[1] += 1
        return former

    def leave(self, former: str) -> None:
        """End the present stage; `former`, which it interrupted, goes on."""
        self._switch(former)

    def _switch(self, stage: str) -> None:
        wall = time.perf_counter()
        self._totals.setdefault(self._stage, [0.0, 0.0])[0] += wall - self._wall
        self._stage, self._wall = stage, wall

    def snapshot(self) -> Snapshot:
        """Return the totals; of the stage that goes on, the wall time up to now.

        Another thread may ask while this one waits.
        """
        totals = {stage: list(total) for stage, total in list(self._totals.items())}
        totals.setdefault(self._stage, [0.0, 0.0])[0] += time.perf_counter() - self._wall
        return totals

    def cpu_seconds(self) -> float:
        """Return the thread's processor seconds so far; 0 where the system keeps no clock of a thread."""
        try:
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        except OSError:  # the thread has ended
            return 0.0


def _processor_clock() -> int | None:
    if not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.pthread_getcpuclockid(threading.get_ident())


class Recorder:
    """The stages of all threads of one process."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._threads: dict[str, Stages] = {}

    def here(self) -> Stages:
        """Return the calling thread's stages, which begin with the first call."""
        try:
            stages: Stages = self._local.stages
        except AttributeError:
            stages = self._local.stages = Stages()
            self._threads[threading.current_thread().name] = stages
        return stages

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, whose time counts as `stage` of the thread that calls it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            stages = self.here()
            former = stages.enter(stage)
            try:
                return function(*args, **kwargs)
            finally:
                stages.leave(former)

        return call

    def wrap(self, owner: object, method: str, stage: str) -> None:
        """Time the method of this one object as `stage`."""
        setattr(owner, method, self.timed(stage, getattr(owner, method)))

    def counters(self) -> dict[str, float]:
        """Return the calling thread's totals under flat names, as a worker's counters have to be."""
        stages = self.here()
        counts = {
            f"{PREFIX}{stage}:{count}": value
            for stage, total in stages.snapshot().items()
            for count, value in zip(_COUNTS, total, strict=True)
        }
        return {**counts, CPU: stages.cpu_seconds()}

    def threads(self) -> dict[str, dict[str, Any]]:
        """Return `stages` and `cpu` of every thread but the search threads, which report for themselves."""
        found = [(name, stages) for name, stages in list(self._threads.items()) if not name.startswith("search-")]
        return {name: {"stages": stages.snapshot(), "cpu": stages.cpu_seconds()} for name, stages in found}


def from_counters(counters: dict[str, float]) -> Snapshot:
    """Return the stages among a worker's counters, or among the sums of many workers' counters."""
    out: Snapshot = {}
    for key, value in counters.items():
        if key.startswith(PREFIX):
            stage, _, count = key.removeprefix(PREFIX).rpartition(":")
            out.setdefault(stage, [0.0, 0.0])[_COUNTS.index(count)] = value
    return out


def switch_seconds(repeats: int = 2000) -> float:
    """Return what one call of a timed function costs more than a plain one."""
    recorder = Recorder()
    timed = recorder.timed("probe", _nothing)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(repeats):
            timed()
        timed_s, began = time.perf_counter() - began, time.perf_counter()
        for _ in range(repeats):
            _nothing()
        best = min(best, (timed_s - (time.perf_counter() - began)) / repeats)
    return max(best, 0.0)


def _nothing() -> None:
    """Take no time."""
