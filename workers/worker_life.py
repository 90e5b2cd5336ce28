"""What the supervisor knows of one worker, over all its lives: its pipe, its process, what it counted, its faults."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from workers.plan import PoolPlan, Sizes
from workers.port import Port
from workers.worker import WorkerJob

Counts = dict[str, float]
MOST_RESTARTS = 5
"""Restarts of one worker without a finished game in between, before it is given up."""
_FIRST_PAUSE_S = 0.25


@dataclass
class WorkerLife:
    """One worker, from its first start until it is given up."""

    worker: int
    port: Port
    process: BaseProcess | None
    """None for a search thread, which lives in the server's process."""
    ready: bool = False
    stats: Counts = field(default_factory=dict)
    """Monotone counts of the present life."""
    earlier: Counts = field(default_factory=dict)
    """Counts of former lives together."""
    restarts: int = 0
    restart_at: float = 0.0
    """When it is to be started again, in monotonic seconds; 0 = it runs."""
    fault: str = ""
    """What it said last."""
    alive: bool = True
    """Whether it runs or will be started again."""
    at_rest: bool = False

    @property
    def counts(self) -> Counts:
        """The monotone counts of all its lives."""
        return add_counts((self.earlier, self.stats))

    def may_restart(self) -> bool:
        """Count a restart; False for a worker that only ever fails, which is given up."""
        self.restarts += 1
        self.alive = self.restarts <= MOST_RESTARTS
        return self.alive

    def pause_s(self) -> float:
        """Return how long to wait before the restart just counted: longer each time."""
        return float(_FIRST_PAUSE_S * 2 ** (self.restarts - 1))

    def end(self) -> None:
        """Keep the counts of a life that has ended."""
        self.earlier, self.stats = self.counts, {}

    def reborn(self, port: Port, process: BaseProcess | None) -> WorkerLife:
        """Return the next life, which remembers the counts and restarts of this one."""
        self.port.close()
        return WorkerLife(self.worker, port, process, earlier=self.counts, restarts=self.restarts)


def add_counts(parts: Iterable[Counts]) -> Counts:
    """Return the sum of monotone counts; of `peak_rss_mb` the largest."""
    out: Counts = {}
    for part in parts:
        for name, value in part.items():
            out[name] = max(out.get(name, 0), value) if name == "peak_rss_mb" else out.get(name, 0) + value
    return out


def log_path(plan: PoolPlan, worker: int) -> Path:
    """Return the file that `worker` appends its games to."""
    return plan.games_folder / f"worker-{worker:03d}.jsonl"


def worker_job(plan: PoolPlan, worker: int, sizes: Sizes) -> WorkerJob:
    """Return what worker number `worker` shall do."""
    return WorkerJob(
        worker=worker,
        game_spec=plan.game_spec,
        run_seed=plan.run_seed,
        search=plan.search,
        games=sizes.games,
        groups=sizes.groups,
        log_path=str(log_path(plan, worker)),
        stagger=plan.stagger,
    )
