"""What the supervisor knows of the server's process: its pipe, what it said when ready, its counters, its faults."""

from __future__ import annotations

from multiprocessing.process import BaseProcess
from typing import Any

from common.errors import PoolError
from workers import host
from workers.plan import PoolPlan
from workers.port import Port
from workers.worker_life import worker_job


class HostLife:
    """The server's process, which also runs the search threads of a thread pool."""

    def __init__(self, context: Any, plan: PoolPlan) -> None:
        """Nothing is started."""
        self._context, self._plan = context, plan
        self.process: BaseProcess | None = None
        self.port: Port | None = None
        self.alive = False
        self.ready: dict[str, Any] = {}
        """What it said when it was ready: backend, pool and its reason, endpoint, model."""
        self.stats: dict[str, Any] = {}
        self.fault = ""
        """What it said last of a fault."""

    def start(self, threads: bool) -> list[Port]:
        """Start the process; return the pipes to its search threads, if it may have any."""
        plan, mine, theirs, jobs = self._plan, [], [], []
        for worker in range(plan.thread_sizes.workers if threads else 0):
            ours, other = self._context.Pipe()
            mine.append(Port(ours))
            theirs.append(other)
            jobs.append(worker_job(plan, worker, plan.thread_sizes))
        job = host.HostJob(
            game_spec=plan.game_spec,
            evaluator=plan.evaluator,
            network=plan.network,
            server=plan.server,
            pool=plan.pool,
            threads=tuple(jobs),
            metrics_port=plan.metrics_port,
            policy=plan.policy,
        )
        ours, other = self._context.Pipe()
        process = self._context.Process(target=host.main, args=(job, other, theirs), name="grove-server")
        process.start()
        for end in (other, *theirs):
            end.close()
        self.process, self.port, self.alive = process, Port(ours), True
        return mine

    def send(self, kind: str) -> None:
        """Send one message to a living server."""
        if self.port is not None and self.alive:
            self.port.send(kind)

    def read(self, stopping: bool) -> None:
        """Take all waiting messages. Raises PoolError when the server has ended and was not told to stop."""
        assert self.port is not None
        message = self.port.receive()
        while message is not None:
            kind, *values = message
            if kind == "stop":
                self.alive = False
                if not stopping:
                    raise PoolError(f"the inference server has ended: {self.fault or 'it was killed'}")
                return
            if kind == "ready":
                self.ready = values[0]
            elif kind == "failed":
                self.fault = values[0]
            else:
                self.stats = values[0]
            message = self.port.receive()
