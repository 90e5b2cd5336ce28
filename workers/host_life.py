"""What the supervisor knows of the server's process, over all its lives: its pipe, what it said, counted and broke.

Beside it a standby may wait, with torch imported: the most part of what a new server needs to start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from common.errors import PoolError
from inference_server import private_endpoint
from workers import host
from workers.children import Child, Held, start_unless
from workers.plan import PoolPlan
from workers.port import Port
from workers.restarts import MOST_RESTARTS, Restarts, Silence
from workers.worker_life import worker_job

STANDBY_AFTER_S = 10.0
"""Seconds a server serves before its standby is started: short runs need none, and importing takes a core for 3 s."""
_NEXT_AFTER_S = 3.0
"""The same from the first batch of a server that took over: what killed one may soon kill another."""


@dataclass
class _Process:
    child: Child
    port: Port
    threads: list[Port]
    fault: str = ""
    """What it said last of a fault."""
    loaded: bool = False
    """Whether it is a standby that has loaded all and waits."""


class HostLife:
    """The server's process, which also runs the search threads of a thread pool."""

    def __init__(self, context: Any, plan: PoolPlan, lock: int | None, problems: list[str]) -> None:
        """Nothing is started.

        `lock`: descriptor that the process shall hold open, too. `problems`: takes lines about what was survived and
        about new models.
        """
        self._context, self._plan, self._lock = context, plan, lock
        self._stack = ExitStack()
        self._job = host.HostJob(
            game_spec=plan.game_spec,
            evaluator=plan.evaluator,
            network=plan.network,
            server=plan.server,
            pool=plan.pool,
            metrics_port=plan.metrics_port,
            models=plan.models,
            policy=plan.policy,
        )
        self.child: Child | None = None
        self.port: Port | None = None
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
        self._standby: _Process | None = None
        self._standby_restarts = Restarts()
        self._standby_due = math.inf
        self._took_over = False
        """Whether the present life was the standby."""

    @property
    def pids(self) -> list[int]:
        """Process numbers of the server and of its standby."""
        both = (self.child, self._standby.child if self._standby else None)
        return [child.pid for child in both if child is not None]

    @property
    def available(self) -> bool:
        """Whether it serves, or there is none to wait for."""
        return self.serving or self.child is None

    def start(self, threads: bool, interrupted: Callable[[], bool]) -> list[Port] | None:
        """Start the first life; return the pipes to its search threads, if it may have any. None: interrupted."""
        plan = self._plan
        numbers = range(plan.thread_sizes.workers if threads else 0)
        jobs = tuple(worker_job(plan, worker, plan.thread_sizes) for worker in numbers)
        endpoint = "" if plan.evaluator != "server" else self._stack.enter_context(private_endpoint())
        self._job = replace(self._job, threads=jobs, endpoint=endpoint)
        return self._take(self._make(False, interrupted))

    def start_again(self) -> list[Port]:
        """Start the next life, as the former one said it was, by the standby if there is one."""
        self.restarts.due = 0.0
        process = self._able_standby()
        self._took_over = process is not None
        if process is not None:
            process.port.send("go")
        ports = self._take(process or self._make(False, lambda: False))
        assert ports is not None, "nothing interrupts a restart"
        return ports

    def schedule(self) -> None:
        """Set when the restart just counted is due: the first one at once where a standby waits."""
        self.restarts.schedule(time.monotonic())
        if self.restarts.count == 1 and self._standby is not None and self._standby.loaded:
            self.restarts.due = time.monotonic()

    def prepare(self) -> None:
        """Start the standby when it is due."""
        wanted = self._plan.standby and self._plan.evaluator == "server" and self._standby is None
        if wanted and self.serving and time.monotonic() >= self._standby_due:
            self._standby = self._make(True, lambda: False)

    def waiting_ports(self) -> list[Port]:
        """Return the pipes of what is running."""
        ports = [self.port] if self.running and self.port else []
        return [*ports, *([self._standby.port] if self._standby else [])]

    def send(self, kind: str, *values: Any) -> None:
        """Send one message to a running server."""
        if self.port is not None and self.running:
            self.port.send(kind, *values)

    def read(self) -> str:
        """Take all waiting messages; return how it ended, if it did."""
        assert self.port is not None
        while (message := self.port.receive()) is not None:
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
        return ""

    def read_standby(self) -> None:
        """Notice that the standby has loaded all, or has ended; then another one is started later."""
        while self._standby is not None and (message := self._standby.port.receive()) is not None:
            kind, *values = message
            if kind == "loaded":
                self._standby.loaded = True
            elif kind == "failed":
                self._standby.fault = values[0]
            else:
                self._drop_standby(self._standby.fault or "it was killed")

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
        now = time.monotonic()
        seconds, self.ended_at, self._standby_due = now - self.ended_at, 0.0, now + min(_NEXT_AFTER_S, STANDBY_AFTER_S)
        return seconds

    def close(self, patience_s: float) -> None:
        """End process and standby, and remove the socket's folder."""
        if self._standby is not None:
            self._standby.port.send("stop")
        if self.child is not None:
            self.child.end(patience_s)
        if self.port is not None:
            self.port.close()
        if self._standby is not None:
            self._end(self._standby)
        self._stack.close()

    def _is_ready(self, said: dict[str, Any]) -> None:
        self.ready, self.serving, self.stats = said, True, {}
        self._standby_due = math.inf if self.ended_at else time.monotonic() + STANDBY_AFTER_S
        if self._took_over:
            self._standby_restarts.count = 0
        # The next life shall be what this one was.
        threads = self._job.threads if said["pool"] == "thread" else ()
        network, backend = self._job.network, said.get("backend")
        if backend is not None:
            device = "cpu" if backend["device"].startswith("cpu") else network.device
            network = replace(network, device=device, dtype=backend["dtype"])
        self._job = replace(self._job, pool=said["pool"], endpoint=said["endpoint"], threads=threads, network=network)

    def _make(self, waits: bool, interrupted: Callable[[], bool]) -> _Process | None:
        """Start a process; `waits`: as a standby, which begins when told to."""
        pipes = [self._context.Pipe() for _ in range(1 + len(self._job.threads))]
        theirs = [other for _, other in pipes]
        held = None if self._lock is None else Held(self._lock)
        arguments = (replace(self._job, waits=waits), theirs[0], theirs[1:], held)
        process = self._context.Process(target=host.main, args=arguments, name="grove-server")
        try:
            child = start_unless(process, interrupted)
        finally:
            for end in theirs:
                end.close()
        port, *threads = [Port(mine) for mine, _ in pipes]
        return None if child is None else _Process(child, port, threads)

    def _take(self, process: _Process | None) -> list[Port] | None:
        if process is None:
            return None
        if self.port is not None:
            self.port.close()
        self.child, self.port, self.fault = process.child, process.port, ""
        self.running, self.serving = True, False
        self.silence.broken()
        return process.threads

    def _able_standby(self) -> _Process | None:
        """Return the standby, which is one no more; None if it cannot serve."""
        if self._standby is not None and self._standby.child.is_stopped():
            self._drop_standby("somebody stopped it")
        self.read_standby()
        process, self._standby = self._standby, None
        return process

    def _drop_standby(self, why: str) -> None:
        """End what is left of the standby and say why; the next one is due later, if there is to be one."""
        assert self._standby is not None
        self._end(self._standby)
        self._standby, self._standby_due = None, time.monotonic() + STANDBY_AFTER_S
        fate = "has ended"
        if not self._standby_restarts.allow():
            self._standby_due, fate = math.inf, f"is given up after {MOST_RESTARTS} restarts"
        self._problems.append(f"the standby of the inference server {fate}: {why}")

    def _end(self, process: _Process) -> None:
        process.child.end(0.0)
        for port in (process.port, *process.threads):
            port.close()


def given_up(life: HostLife, why: str) -> PoolError:
    """Return the error of a server that only ever ends."""
    return PoolError(f"the inference server is given up after {life.restarts.count - 1} restarts: {why}")
