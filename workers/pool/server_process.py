"""What the supervisor knows of the server's process, over all its restarts: its pipe, what it said, counted and
broke."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from grove.common.errors import PoolError
from grove.game import load_game
from grove.inference_server import private_endpoint
from grove.workers.pool import server_entry
from grove.workers.pool.children import Child, Held
from grove.workers.pool.fork_server import SERVERS, ForkServer, fork_server_of
from grove.workers.pool.plan import PoolPlan
from grove.workers.pool.restarts import Restarts, Silence
from grove.workers.pool.worker_process import worker_job
from grove.workers.selfplay.control_pipe import ControlPipe
from grove.workers.selfplay.evaluators import row_spec


class ServerProcess:
    """The server's process, which also runs the search threads of a thread pool."""

    def __init__(self, plan: PoolPlan, lock: int | None, problems: list[str]) -> None:
        """Nothing is started.

        `lock`: descriptor that the process shall hold open, too. `problems`: takes lines about what was survived and
        about new models.
        """
        self._plan, self._lock = plan, lock
        self._stack = ExitStack()
        self._job: server_entry.ServerJob
        self.child: Child | None = None
        self.pipe: ControlPipe | None = None
        self.running = False
        """Whether its pipe is open."""
        self.serving = False
        """Whether the present life is ready."""
        self.ready: dict[str, Any] = {}
        """What it said when it was ready last: backend, pool and its reason, endpoint, model."""
        self.stats: dict[str, Any] = {}
        self._problems = problems
        self.fault = ""
        """What it said last of a fault."""
        self.restarts, self.silence = Restarts(), Silence()
        self.ended_at = 0.0
        """When its former life ended, until it has computed a batch again; 0 = none did."""

    @property
    def fork_server(self) -> ForkServer:
        """Where it comes from."""
        return SERVERS if self._plan.evaluator == "server" else fork_server_of(self._plan.game_spec)

    @property
    def available(self) -> bool:
        """Whether it serves, or there is none to wait for."""
        return self.serving or self.child is None

    def start(self, interrupted: Callable[[], bool]) -> list[ControlPipe] | None:
        """Start the first life; return the pipes to its search threads, if it may have any. None: interrupted."""
        plan = self._plan
        numbers = range(plan.thread_sizes.workers if plan.threads_possible else 0)
        jobs = tuple(worker_job(plan, worker, plan.thread_sizes) for worker in numbers)
        endpoint = "" if plan.evaluator != "server" else self._stack.enter_context(private_endpoint())
        self._job = server_entry.ServerJob(
            game_spec=plan.game_spec,
            row_spec=row_spec(load_game(plan.game_spec)),
            evaluator=plan.evaluator,
            network=plan.network,
            server=plan.server,
            pool=plan.pool,
            threads=jobs,
            endpoint=endpoint,
            metrics_port=plan.metrics_port,
            models=plan.models,
            policy=plan.policy,
        )
        return self._make(interrupted)

    def start_again(self) -> list[ControlPipe]:
        """Start the next life, as the former one said it was."""
        self.restarts.due = 0.0
        pipes = self._make(lambda: False)
        assert pipes is not None, "nothing interrupts a restart"
        return pipes

    def send(self, kind: str, *values: Any) -> None:
        """Send one message to a running server."""
        if self.pipe is not None and self.running:
            self.pipe.send(kind, *values)

    def read(self) -> str:
        """Take all waiting messages; return how it ended, if it did."""
        assert self.pipe is not None
        while (message := self.pipe.receive()) is not None:
            kind, *values = message
            self.silence.broken()
            if kind == "stop":
                return self.fault or "it was killed"
            if kind == "ready":
                self._is_ready(values[0])
            elif kind == "problem":
                self._problems.append(values[0])
            elif kind == "failed":
                self.fault = values[0]
            elif kind == "stats":
                self.stats = values[0]
                self.fork_server.begin()  # anew, if it has died: the next server will not wait for it
        return ""

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
        self.running = self.serving = False
        self.ended_at = self.ended_at or time.monotonic()
        return True

    def computed_again(self) -> float | None:
        """Return, once, the seconds from the end of the former life to the first batch since then."""
        if not self.ended_at or not self.serving or not self.stats.get("batches"):
            return None
        seconds, self.ended_at = time.monotonic() - self.ended_at, 0.0
        return seconds

    def close(self, patience_s: float) -> None:
        """End the process and remove the socket's folder."""
        if self.child is not None:
            self.child.end(patience_s)
        if self.pipe is not None:
            self.pipe.close()
        self._stack.close()

    def _is_ready(self, said: dict[str, Any]) -> None:
        self.ready, self.serving, self.stats = said, True, {}
        # The next life shall be what this one was.
        threads = self._job.threads if said["pool"] == "thread" else ()
        network, backend = self._job.network, said.get("backend")
        if backend is not None:
            device = "cpu" if backend["device"].startswith("cpu") else network.device
            network = replace(network, device=device, dtype=backend["dtype"])
        self._job = replace(self._job, pool=said["pool"], endpoint=said["endpoint"], threads=threads, network=network)

    def _make(self, interrupted: Callable[[], bool]) -> list[ControlPipe] | None:
        """Start a process; return the pipes to its search threads. None: interrupted."""
        pipes = [multiprocessing.Pipe() for _ in range(1 + len(self._job.threads))]
        theirs = [other for _, other in pipes]
        held = None if self._lock is None else Held(self._lock)
        try:
            child = self.fork_server.start_unless(
                interrupted, server_entry.main, (self._job, theirs[0], theirs[1:], held), "grove-server"
            )
        finally:
            for end in theirs:
                end.close()
        if child is None:
            return None
        if self.pipe is not None:
            self.pipe.close()
        pipe, *threads = [ControlPipe(mine) for mine, _ in pipes]
        self.child, self.pipe, self.fault = child, pipe, ""
        self.running, self.serving = True, False
        self.silence.broken()
        return threads


def given_up(process: ServerProcess, why: str) -> PoolError:
    """Return the error of a server that only ever ends."""
    return PoolError(f"the inference server is given up after {process.restarts.count - 1} restarts: {why}")
