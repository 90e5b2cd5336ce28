"""The lines of metrics.jsonl: the figures of one interval of a run, complete in themselves."""

from __future__ import annotations

import os
from typing import Any

from grove.common.usage import GpuUse, MachineUse, ProcessUse
from grove.workers.pool import figures
from grove.workers.pool.pool import Pool

INTERVAL_S = 5.0
"""Seconds between two lines of metrics.jsonl."""
_BY_WORKER = (
    ("evaluations", "evaluations_per_second_by_worker", 1),
    ("simulations", "simulations_per_second_by_worker", 1),
    ("games", "games_per_minute_by_worker", 60),
)
"""Count of a worker, name of its rate, and seconds the rate is for."""


def gpus_used(pool: Pool) -> int | None:
    """Return how many of the visible GPUs a pool that is ready computes on; None where any of them may be."""
    if "backend" in pool.server_ready:
        on_cpu = str(pool.server_ready["backend"]["device"]).startswith("cpu")
        return 0 if on_cpu else int(pool.server_ready["lanes"])
    own = pool.plan.evaluator in ("local", "direct") and pool.plan.network.device != "cpu"
    return None if own else 0


class Sampler:
    """Makes one line an interval; used by the pool's thread. `close` lets the GPU's driver go."""

    def __init__(self, pool: Pool, units: figures.Units) -> None:
        """`units`: what one finished game counts as (`Game.units`)."""
        self._pool, self._units = pool, units
        self._processes, self._machine, self._gpus = ProcessUse(), MachineUse(), GpuUse(gpus_used(pool))
        self._last: figures.Counters | None = None
        self._last_by_worker: dict[str, list[float]] = {}
        self.use: dict[str, Any] = {}
        """What the last look saw: `cpu_cores` and `memory_mb` by group of processes, `machine_cores`, `gpus`."""
        self._alive = 0
        self.look()

    def look(self) -> dict[str, Any]:
        """Look at processes and GPUs now and return what was seen; cores are those since the last look."""
        pool = self._pool
        groups = {
            "server": pool.server_pids,
            "workers": pool.worker_pids,
            "supervisor": [os.getpid()],
        }
        self._alive = pool.alive
        taken = {**self._processes.look(groups), "machine_cores": self._machine.look()}
        self.use = {**taken, "gpus": self._gpus.look()}
        return self.use

    def line(self, now: figures.Counters) -> dict[str, Any]:
        """Return the figures from the last line to `now`, and what the last look saw."""
        pool, last = self._pool, self._last
        seconds = now["seconds"] - (last["seconds"] if last else 0.0)
        self._last = now
        return {
            "seconds": round(now["seconds"], 3),
            "interval_s": round(seconds, 3),
            "games": pool.scheduler.finished,
            "games_wanted": len(pool.scheduler.wanted),
            **figures.rates(now, last, self._units),
            **self._rates_by_worker(max(seconds, 1e-9)),
            "workers_alive": self._alive,
            "workers_lost": pool.lost,
            "workers_restarted": pool.restarted,
            "server_restarted": pool.server_restarted,
            **self.use,
        }

    def close(self) -> None:
        """Let the GPU's driver go."""
        self._gpus.close()

    def _rates_by_worker(self, seconds: float) -> dict[str, list[float]]:
        out = {}
        for count, name, per in _BY_WORKER:
            now = self._pool.by_worker(count)
            before = self._last_by_worker.get(count) or [0.0] * len(now)
            self._last_by_worker[count] = now
            out[name] = [round(per * (b - a) / seconds, 1) for a, b in zip(before, now, strict=True)]
        return out
