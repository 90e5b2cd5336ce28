"""A burn probe: how fast this machine's cores are right now, run beside every round of a measurement.

Machines drop cores and clocks without notice; a round whose probe moved is not comparable with its neighbours.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import numpy as np

from grove.common.kernels import kernel
from grove.common.machine import usable_cores

PROBE_S = 0.05
"""Default seconds of each half of the probe."""

MOVED = 0.10
"""Relative change of a probe from which the round beside it is dropped."""

_CHUNK = 100_000
"""Operations between two counts: about 0.2 milliseconds."""

_LINE = 16
"""Counters lie this many int64 apart, so that threads do not share a cache line."""


class Probe(NamedTuple):
    """Integer operations per second that one core, and all cores together, delivered."""

    one_core: float
    all_cores: float
    cores: int
    """How many threads were busy in `all_cores`."""

    @property
    def delivered_cores(self) -> float:
        """How many times the work of one busy core all of them did together."""
        return self.all_cores / self.one_core

    def moved(self, other: Probe) -> float:
        """Return the larger relative difference of the two rates; 0 means the same speed."""
        return max(
            abs(self.one_core - other.one_core) / max(self.one_core, other.one_core),
            abs(self.all_cores - other.all_cores) / max(self.all_cores, other.all_cores),
        )


def burn_probe(seconds: float = PROBE_S, cores: int | None = None) -> Probe:
    """Burn one core, then `cores` (by default all usable ones), `seconds` each, and return the rates."""
    count = usable_cores() if cores is None else cores
    return Probe(_rate(1, seconds), _rate(count, seconds), count)


def _rate(threads: int, seconds: float) -> float:
    """Return the operations per second of `threads` busy threads together."""
    stop = np.zeros(1, np.int64)
    chunks = np.zeros((threads, _LINE), np.int64)
    _burn_until(np.ones(1, np.int64), chunks[0])  # compiled (or loaded) before the clock runs
    workers = [threading.Thread(target=_burn_until, args=(stop, chunks[number])) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        began, before = time.perf_counter(), int(chunks[:, 0].sum())
        time.sleep(seconds)
        done, took = int(chunks[:, 0].sum()) - before, time.perf_counter() - began
    finally:  # an interrupt must not leave them burning
        stop[0] = 1
        for worker in workers:
            worker.join()
    return done * _CHUNK / took


@kernel
def _burn_until(stop: np.ndarray, chunks: np.ndarray) -> np.uint64:
    """Count finished chunks in `chunks[0]` (int64) until `stop[0]` (int64) is set; all in one call, free of the GIL.

    The steps are dependent xorshifts: nothing but registers, so neighbours cannot slow them through memory.
    """
    state = np.uint64(88172645463325252)
    while stop[0] == 0:
        for _ in range(_CHUNK):
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
        chunks[0] += 1
    return state
