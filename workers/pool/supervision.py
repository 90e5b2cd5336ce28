"""What the supervisor knows of its children, over all their lives: pipe, process, faults, silence, restarts."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from grove.game import load_game
from grove.inference_server import private_endpoint
from grove.records.record import indices_from
from grove.workers.pool import server_entry, worker_entry
from grove.workers.pool.children import Child, Held
from grove.workers.pool.fork_server import SERVERS, ForkServer, fork_server_of
from grove.workers.pool.plan import PoolPlan, ServerJob
from grove.workers.selfplay.control_pipe import ControlPipe
from grove.workers.selfplay.evaluators import row_spec
from grove.workers.selfplay.game_scheduler import GameScheduler

MOST_RESTARTS = 5
"""Restarts without a finished game in between, before a worker or the server is given up."""
MOST_FALSE_STARTS = 1
"""Restarts of a worker while none ever was ready: then it is as a rule the game or a setting that is wrong."""
FIRST_PAUSE_S = 0.25
"""Pause before the first restart; doubled for each further one."""
HANG_S = 20.0
"""Seconds of silence after which a child that uses no processor time hangs: forty times its interval of reports."""
STUCK_S = 300.0
"""Seconds of silence after which a child hangs although it computes; a slow game's turn may take minutes, and so may
compiling a large user network before a child is ready."""
BLINK_S = 1.0
"""Longest time that one look counts for: a supervisor that was itself held up blames nobody."""
_USED_S = 0.05
"""Processor seconds in half of `HANG_S` from which a child counts as computing."""
_MOST_INDICES = 1024
"""Game indices in one message, so that none waits for room in the pipe of a worker that hangs."""

Counts = dict[str, float]


@dataclass
class Restarts:
    """When a child is started again, and when it is given up."""

    count: int = 0
    """Since the last success."""
    due: float = 0.0
    """When the next one is, in monotonic seconds; 0 = none."""

    def allow(self, started: bool = True) -> bool:
        """Count a restart; False for a child that only ever fails, which is given up.

        `started`: whether any such child ever was ready.
        """
        self.count += 1
        return self.count <= (MOST_RESTARTS if started else MOST_FALSE_STARTS)

    def schedule(self, now: float) -> None:
        """Set when the restart just counted is due: after a pause that doubles."""
        self.due = now + FIRST_PAUSE_S * 2 ** (self.count - 1)

    def is_due(self, now: float) -> bool:
        """Whether the child is to be started again now."""
        return 0.0 < self.due <= now


@dataclass
class Silence:
    """How long a child has said nothing although it should."""

    hang_s: float = HANG_S
    """Seconds of it after which a child that uses no processor time hangs."""
    seconds: float = 0.0
    used_s: float | None = None
    """Its processor time when it was looked at last."""
    looked_at: float = 0.0
    """How long it had been silent then."""

    def broken(self) -> None:
        """It said something."""
        self.seconds, self.used_s = 0.0, None

    def hangs(self, elapsed_s: float, processor_seconds: Callable[[], float | None]) -> str:
        """Count `elapsed_s` more of silence; return how the child is known to hang, or nothing.

        It is looked at after half of `hang_s`, and again after each further half: has it used processor time?
        """
        self.seconds += min(elapsed_s, BLINK_S)
        if self.seconds >= STUCK_S:
            return f"it said nothing for {STUCK_S:.0f} s"
        half = self.hang_s / 2
        if self.seconds < half or (self.used_s is not None and self.seconds - self.looked_at < half):
            return ""
        before, self.used_s, self.looked_at = self.used_s, processor_seconds(), self.seconds
        if before is None or self.used_s is None or self.used_s - before >= _USED_S:
            return ""
        return f"it said nothing for {self.seconds:.0f} s and used no processor time"


class Supervised:
    """One child from its first start until it is given up; `begin` starts its next life."""

    def __init__(self) -> None:
        self.pipe: ControlPipe | None = None
        self.child: Child | None = None
        """Its process; None before the first start, and for a search thread, which lives in the server's process."""
        self.running = False
        """Whether its pipe is open."""
        self.ready = False
        self.fault = ""
        """What it said last of a fault."""
        self.restarts, self.silence = Restarts(), Silence()

    def begin(self, pipe: ControlPipe, child: Child | None) -> None:
        """It was started, for the first time or again."""
        if self.pipe is not None:
            self.pipe.close()
        self.pipe, self.child, self.fault = pipe, child, ""
        self.running, self.ready, self.restarts.due, self.silence = True, False, 0.0, Silence()

    def send(self, kind: str, *values: Any) -> None:
        """Send one message, if it runs."""
        if self.running and self.pipe is not None:
            self.pipe.send(kind, *values)

    def messages(self) -> Iterator[list[Any]]:
        """Yield all waiting messages; `["stop"]` is the last one when its pipe has ended."""
        while self.pipe is not None and (message := self.pipe.receive()) is not None:
            self.silence.broken()
            yield message
            if message[0] == "stop":
                return

    def close(self, patience_s: float) -> None:
        """Wait for its process to end, kill it after `patience_s`, and close its pipe."""
        if self.child is not None:
            self.child.end(patience_s)
        if self.pipe is not None:
            self.pipe.close()


class WorkerProcess(Supervised):
    """One worker: a process, or a search thread of the server's process."""

    def __init__(self, plan: PoolPlan, number: int) -> None:
        """Nothing is started; what its log holds already is known to the scheduler of indices."""
        super().__init__()
        self.plan, self.number = plan, number
        self.log = plan.log_path(number)
        self.thread = 0
        """Native number of its thread, as it said when ready."""
        self.stats: Counts = {}
        """Monotone counts of the present life."""
        self.earlier: Counts = {}
        """Counts of former lives together."""
        self.alive = True
        """Whether it runs or will be started again."""
        self.left = False
        """Whether it ended in order, with all said."""
        self.at_rest = False
        self._log_read = self.log.stat().st_size if self.log.exists() else 0

    @property
    def counts(self) -> Counts:
        """The monotone counts over all its restarts."""
        return add_counts((self.earlier, self.stats))

    def start(self, endpoint: str, lock: int | None, interrupted: Callable[[], bool]) -> None:
        """Start its process, unless `interrupted` says so first. Raises PoolError.

        `endpoint`: of the pool's own server. `lock`: descriptor that the process shall hold open, too.
        """
        mine, theirs = multiprocessing.Pipe()
        jobs = self.plan.worker_job(self.number), self.plan.evaluator_job(endpoint)
        held = None if lock is None else Held(lock)
        name = f"grove-worker-{self.number}"
        child = fork_server_of(self.plan.game_spec).start_unless(
            interrupted, worker_entry.main, (*jobs, theirs, held), name
        )
        theirs.close()
        if child is not None:
            self.begin(ControlPipe(mine), child)

    def begin(self, pipe: ControlPipe, child: Child | None) -> None:
        """It was started, for the first time or again."""
        super().begin(pipe, child)
        self.thread, self.alive, self.left, self.at_rest = 0, True, False, False

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
        if count and self.pipe is not None and self.pipe.has_room():
            self.send("indices", scheduler.hand_out(self.number, min(count, _MOST_INDICES)))

    def pause(self) -> None:
        """Its pipe is closed; it does nothing until it is started again."""
        self.running = self.ready = self.at_rest = False

    def written(self) -> list[int]:
        """Return the games of its log that were not returned before; call it when it can write no more."""
        indices, self._log_read = indices_from(self.log, self._log_read)
        return indices

    def end(self) -> None:
        """Keep the counts of a life that has ended."""
        self.stats.pop("in_progress", None)  # its games are handed out again
        self.earlier, self.stats = self.counts, {}


def add_counts(parts: Iterable[Counts]) -> Counts:
    """Return the sum of monotone counts; of `peak_rss_mb` the largest."""
    out: Counts = {}
    for part in parts:
        for name, value in part.items():
            out[name] = max(out.get(name, 0), value) if name == "peak_rss_mb" else out.get(name, 0) + value
    return out


class ServerProcess(Supervised):
    """The server's process, which also runs the search threads of a thread pool."""

    def __init__(self, plan: PoolPlan, lock: int | None) -> None:
        """Nothing is started. `lock`: descriptor that the process shall hold open, too."""
        super().__init__()
        self._plan, self._lock = plan, lock
        self._stack = ExitStack()
        self._job: ServerJob | None = None
        self.said: dict[str, Any] = {}
        """What it said when it was ready last: backend, endpoint, model."""
        self.stats: dict[str, Any] = {}
        self._ended_at = 0.0  # when its former life ended, until it has computed a batch again; 0 = none did

    @property
    def fork_server(self) -> ForkServer:
        """Where it comes from."""
        return SERVERS if self._plan.evaluator == "server" else fork_server_of(self._plan.game_spec)

    @property
    def available(self) -> bool:
        """Whether it serves, or there is none to wait for."""
        return self.ready or self.child is None

    @property
    def model(self) -> str:
        """The model that it serves, or served last."""
        return str(self.stats.get("model_version", self.said.get("model", "")))

    def start(self, interrupted: Callable[[], bool] = lambda: False) -> list[ControlPipe]:
        """Start its process, for the first time or as the former one was; return the pipes to its search threads.

        There are none in a pool of processes, and when `interrupted` said so first. Raises PoolError.
        """
        self._job = job = self._job or self._first_job()
        pipes = [multiprocessing.Pipe() for _ in range(1 + len(job.threads))]
        theirs = [other for _, other in pipes]
        held = None if self._lock is None else Held(self._lock)
        try:
            arguments = job, theirs[0], theirs[1:], held
            child = self.fork_server.start_unless(interrupted, server_entry.main, arguments, "grove-server")
        finally:
            for end in theirs:
                end.close()
        if child is None:
            return []
        pipe, *threads = [ControlPipe(mine) for mine, _ in pipes]
        self.begin(pipe, child)
        return threads

    def _first_job(self) -> ServerJob:
        plan, serves = self._plan, self._plan.evaluator == "server"
        threads = plan.sizes.workers if plan.pool == "thread" else 0
        return ServerJob(
            game_spec=plan.game_spec,
            row_spec=row_spec(load_game(plan.game_spec)),
            evaluator=plan.evaluator,
            network=plan.network,
            server=plan.server,
            threads=tuple(map(plan.worker_job, range(threads))),
            endpoint=self._stack.enter_context(private_endpoint()) if serves and not threads else "",
            metrics_port=plan.metrics_port,
            models=plan.models,
            policy=plan.policy,
        )

    def is_ready(self, said: dict[str, Any]) -> None:
        """Note what it said when it was ready; its next life shall be what this one is."""
        assert self._job is not None
        self.said, self.ready, self.stats = said, True, {}
        network, backend = self._job.network, said.get("backend")
        if backend is not None:
            device = "cpu" if backend["device"].startswith("cpu") else network.device
            network = replace(network, device=device, dtype=backend["dtype"])
        self._job = replace(self._job, endpoint=said["endpoint"], network=network)

    def hangs(self, elapsed_s: float) -> str:
        """Count silence in which it should have reported; return how it is known to hang, or nothing."""
        if not self.running or self.child is None:
            return ""
        return self.silence.hangs(elapsed_s, self.child.processor_seconds)

    def lost(self) -> bool:
        """End what is left of it; return whether it has ended for certain."""
        assert self.child is not None
        if not self.child.end(0.0):
            return False
        self.running = self.ready = False
        self._ended_at = self._ended_at or time.monotonic()
        return True

    def computed_again(self) -> float | None:
        """Return, once, the seconds from the end of the former life to the first batch since then."""
        if not self._ended_at or not self.ready or not self.stats.get("batches"):
            return None
        seconds, self._ended_at = time.monotonic() - self._ended_at, 0.0
        return seconds

    def close(self, patience_s: float) -> None:
        """End the process and remove the socket's folder."""
        super().close(patience_s)
        self._stack.close()
