"""What the supervisor knows of one worker, over all its restarts: its pipe, its process, what it counted, its
faults."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from grove.records.record import indices_from
from grove.workers.pool import worker_entry
from grove.workers.pool.children import Child, Held
from grove.workers.pool.fork_server import fork_server_of
from grove.workers.pool.plan import PoolPlan, Sizes
from grove.workers.pool.restarts import Restarts, Silence
from grove.workers.pool.worker_entry import EvaluatorJob, client_name
from grove.workers.selfplay.control_pipe import ControlPipe
from grove.workers.selfplay.game_scheduler import GameScheduler
from grove.workers.selfplay.worker import WorkerJob

Counts = dict[str, float]
_MOST_INDICES = 1024
"""Game indices in one message, so that none waits for room in the pipe of a worker that hangs."""


@dataclass
class WorkerProcess:
    """One worker, from its first start until it is given up."""

    worker: int
    pipe: ControlPipe
    log: Path
    """Where it appends its games."""
    child: Child | None
    """None for a search thread, which lives in the server's process."""
    running: bool = True
    """Whether its pipe is open."""
    ready: bool = False
    thread: int = 0
    """Native number of its thread, as it said when ready."""
    stats: Counts = field(default_factory=dict)
    """Monotone counts of the present life."""
    earlier: Counts = field(default_factory=dict)
    """Counts of former lives together."""
    restarts: Restarts = field(default_factory=Restarts)
    silence: Silence = field(default_factory=Silence)
    fault: str = ""
    """What it said last."""
    alive: bool = True
    """Whether it runs or will be started again."""
    left: bool = False
    """Whether it ended in order, with all said."""
    at_rest: bool = False
    log_read: int = 0
    """Bytes of its log that are booked already."""

    @property
    def counts(self) -> Counts:
        """The monotone counts over all its restarts."""
        return add_counts((self.earlier, self.stats))

    @property
    def client(self) -> str:
        """Its name at the server."""
        return client_name(self.worker, self.child.pid if self.child else 0)

    def heard(self) -> None:
        """It said something."""
        self.silence.broken()

    def hangs(self, elapsed_s: float, server: Child | None, served: bool) -> str:
        """Count silence in which it should have reported; return how it is known to hang, or nothing.

        `served`: whether its server is known to serve; until then a worker that starts waits for it and does nothing.
        """
        child = self.child or server
        if not self.running or self.at_rest or (self.child is None and not self.ready):
            self.silence.broken()
            return ""
        watched = child if self.ready or served else None
        return self.silence.hangs(elapsed_s, lambda: watched.processor_seconds(self.thread) if watched else None)

    def hand_out(self, scheduler: GameScheduler, count: int) -> None:
        """Give it up to `count` games to play, as many as its pipe takes without waiting for it."""
        if count and self.pipe.has_room():
            self.pipe.send("indices", scheduler.hand_out(self.worker, min(count, _MOST_INDICES)))

    def pause(self) -> None:
        """Its pipe is closed; it does nothing until it is started again."""
        self.running = self.ready = self.at_rest = False

    def written(self) -> list[int]:
        """Return the games of its log that were not returned before; call it when it can write no more."""
        indices, self.log_read = indices_from(self.log, self.log_read)
        return indices

    def end(self) -> None:
        """Keep the counts of a life that has ended."""
        self.stats.pop("in_progress", None)  # its games are handed out again
        self.earlier, self.stats = self.counts, {}

    def restart(self, pipe: ControlPipe, child: Child | None) -> WorkerProcess:
        """Return the next life, which remembers the counts and restarts of this one."""
        self.pipe.close()
        self.restarts.due = 0.0
        return WorkerProcess(
            self.worker, pipe, self.log, child, earlier=self.counts, restarts=self.restarts, log_read=self.log_read
        )


def add_counts(parts: Iterable[Counts]) -> Counts:
    """Return the sum of monotone counts; of `peak_rss_mb` the largest."""
    out: Counts = {}
    for part in parts:
        for name, value in part.items():
            out[name] = max(out.get(name, 0), value) if name == "peak_rss_mb" else out.get(name, 0) + value
    return out


def first_start(plan: PoolPlan, worker: int, pipe: ControlPipe, child: Child | None) -> WorkerProcess:
    """Return a worker that starts for the first time; what its log holds already is known to the scheduler."""
    log = log_path(plan, worker)
    return WorkerProcess(worker, pipe, log, child, log_read=log.stat().st_size if log.exists() else 0)


def start_process(
    plan: PoolPlan, worker: int, endpoint: str, lock: int | None, interrupted: Callable[[], bool]
) -> tuple[ControlPipe, Child] | None:
    """Start the process of worker number `worker`; None when `interrupted` said so first.

    `endpoint`: of the pool's own server. `lock`: descriptor that the process shall hold open, too.

    Raises PoolError when it cannot be started.
    """
    mine, other = multiprocessing.Pipe()
    held = None if lock is None else Held(lock)
    arguments = (worker_job(plan, worker, plan.process_sizes), evaluator_job(plan, endpoint), other, held)
    fork_server = fork_server_of(plan.game_spec)
    child = fork_server.start_unless(interrupted, worker_entry.main, arguments, f"grove-worker-{worker}")
    other.close()
    return None if child is None else (ControlPipe(mine), child)


def end_workers(processes: Iterable[WorkerProcess], patience: Callable[[], float]) -> None:
    """Kill the processes that do not end within `patience`, which is asked before each, and close all pipes."""
    processes = list(processes)
    for process in processes:
        if process.child is not None and not process.child.has_ended(patience()):
            process.child.kill()
    for process in processes:
        if process.child is not None:
            process.child.end(0.0)
        process.pipe.close()


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
        fsync_every_s=plan.fsync_every_s,
        stagger=plan.stagger,
    )


def evaluator_job(plan: PoolPlan, endpoint: str) -> EvaluatorJob:
    """Return which evaluator a worker process uses; `endpoint` is that of the pool's own server."""
    return EvaluatorJob(
        kind=plan.evaluator,
        endpoint=plan.endpoint or endpoint,
        private=not plan.endpoint,
        keys=plan.keys,
        between_games=plan.server.swap == "between-games",
        network=plan.network,
        direct_compile=plan.direct_compile,
    )
