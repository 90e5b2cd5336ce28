"""The pool: starts the server and its workers, hands out games, notices who died, ends everything cleanly.

The supervisor's process runs it; it never imports torch. Call `pump` often: all messages are handled there. What is
known of a worker is in `worker_life.py`, of the server's process in `host_life.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from common.errors import PoolError
from workers import process_worker
from workers.children import end_process, process_context, remove_socket_folder, start_forkserver
from workers.host_life import HostLife
from workers.index_book import IndexBook, share
from workers.plan import PoolPlan, Sizes
from workers.port import Port
from workers.records import read_log
from workers.worker_life import WorkerLife, add_counts, log_path, worker_job

START_S = 300.0
"""Longest wait for the server; compiling a large user network takes minutes."""
STOP_S = 10.0
"""Longest wait for workers and server to end by themselves before they are killed."""


class Pool:
    """Workers and, where needed, their server; use as a context manager around `start`."""

    def __init__(self, plan: PoolPlan, book: IndexBook) -> None:
        self.plan, self.book = plan, book
        self.problems: list[str] = []
        """One line for every fault that was survived."""
        self.restarted = 0
        self.lost = 0
        """Lives of workers that ended by a fault; each is followed by a restart or given up."""
        self._context = process_context(plan.game_spec)
        self._workers: dict[int, WorkerLife] = {}
        self._host = HostLife(self._context, plan)
        self._stopping = False
        self._paused = False

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Start the server, then the workers; returns when the server is ready and workers are on their way.

        `interrupted` is asked now and then while the server gets ready; when it says so, nothing more is started.

        Raises PoolError, with the child's own words, when the server cannot start.
        """
        plan = self.plan
        start_forkserver(self._context)
        threads_possible = plan.pool != "process" and not plan.endpoint and plan.evaluator not in ("local", "direct")
        if (plan.evaluator == "server" and not plan.endpoint) or threads_possible:
            ports = self._host.start(threads_possible)
            self._workers = {worker: WorkerLife(worker, port, None) for worker, port in enumerate(ports)}
            self._wait_for_host(interrupted)
            if not self.host_ready:
                return
        if self.pool_kind == "process":
            self._workers.clear()
            for worker in range(plan.process_sizes.workers):
                self._start_process(worker, None)

    @property
    def host_ready(self) -> dict[str, Any]:
        """What the server's process said when it was ready: backend, pool and its reason, endpoint, model."""
        return self._host.ready

    @property
    def host_stats(self) -> dict[str, Any]:
        """The server's counters as it reported them last."""
        return self._host.stats

    @property
    def pool_kind(self) -> str:
        """`thread` or `process`."""
        return str(self.host_ready.get("pool", "process"))

    @property
    def sizes(self) -> Sizes:
        """Workers and games a worker of the kind in use."""
        return self.plan.thread_sizes if self.pool_kind == "thread" else self.plan.process_sizes

    @property
    def alive(self) -> int:
        """Workers that run or are about to be restarted."""
        return sum(life.alive for life in self._workers.values())

    @property
    def ready(self) -> int:
        """Workers that said they are ready."""
        return sum(life.ready for life in self._workers.values())

    @property
    def at_rest(self) -> bool:
        """Whether a pause has reached every living worker; their counts are then exact and stand still."""
        return self._paused and all(life.at_rest for life in self._workers.values() if life.alive)

    @property
    def processes(self) -> list[int]:
        """Process numbers of the workers and of the server."""
        return self.worker_pids + ([self.host_pid] if self.host_pid is not None else [])

    @property
    def worker_pids(self) -> list[int]:
        """Process numbers of the workers; none where they are threads of the server's process."""
        children = [life.process for life in self._workers.values()]
        return [child.pid for child in children if child is not None and child.pid is not None]

    @property
    def host_pid(self) -> int | None:
        """Process number of the server, or None without one."""
        return self._host.process.pid if self._host.process else None

    def pause(self) -> None:
        """Let the workers hold still with their trees; the server then has nothing to do. See `at_rest`."""
        self._paused = True
        self._tell_all("pause")

    def resume(self) -> None:
        """Let the workers go on."""
        self._paused = False
        for life in self._workers.values():
            life.at_rest = False
        self._tell_all("resume")

    def ask_report(self) -> None:
        """Ask the server for its counters now; they arrive in `host_stats` by `pump`."""
        self._host.send("report")

    def pump(self, timeout_s: float) -> None:
        """Handle messages for up to `timeout_s`, restart workers that are due, hand out games.

        Raises PoolError when the server has ended or no worker is left.
        """
        # A worker that has ended would be reported again and again.
        ports: list[Any] = [life.port for life in self._workers.values() if life.alive and not life.restart_at]
        if self._host.alive:
            ports.append(self._host.port)
        ready: list[Any] = connection.wait(ports, timeout_s) if ports else []
        if not ports:  # every worker waits for its restart
            time.sleep(timeout_s)
        for life in list(self._workers.values()):
            if life.port in ready:
                self._read(life)
        if self._host.port in ready:
            self._host.read(self._stopping)
        if not self._stopping:
            self._restart_due()
            self._hand_out()

    def stop(self) -> None:
        """End workers, then the server; what does not end within `STOP_S` is killed. May be called twice."""
        if self._stopping:
            return
        self._stopping = True
        if self._host.process and not self.host_ready:
            self._host.process.kill()  # it reads its pipe only when it is ready, and has nothing to lose
        self._tell_all("stop")
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline and any(life.alive for life in self._workers.values()):
            self.pump(0.05)
        self._host.send("stop")
        while time.monotonic() < deadline and self._host.alive:
            self.pump(0.05)
        for process in [*(life.process for life in self._workers.values()), self._host.process]:
            if process is not None:
                end_process(process, max(0.1, deadline - time.monotonic()))
        for life in self._workers.values():
            life.port.close()
        remove_socket_folder(str(self.host_ready.get("endpoint", "")))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- figures -------------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, float]:
        """Return the monotone counts of all workers together, dead ones included; `peak_rss_mb` is the largest."""
        return add_counts(life.counts for life in self._workers.values())

    def games_by_worker(self) -> list[int]:
        """Return the games each worker has finished."""
        return [int(count) for count in self.by_worker("games")]

    def by_worker(self, name: str) -> list[float]:
        """Return the monotone count `name` of each worker, its former lives included."""
        return [life.counts.get(name, 0) for life in self._workers.values()]

    # -- children ------------------------------------------------------------------------------------------------

    def _wait_for_host(self, interrupted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not self.host_ready and not interrupted():
            if time.monotonic() > deadline:
                raise PoolError(f"the server was not ready within {START_S:.0f} s; see `grove doctor`")
            self.pump(0.1)

    def _start_process(self, worker: int, former: WorkerLife | None) -> None:
        plan = self.plan
        mine, other = self._context.Pipe()
        evaluator = process_worker.EvaluatorJob(
            kind=plan.evaluator,
            endpoint=plan.endpoint or str(self.host_ready.get("endpoint", "")),
            keys=plan.keys,
            network=plan.network,
            direct_compile=plan.direct_compile,
        )
        arguments = (worker_job(plan, worker, plan.process_sizes), evaluator, other)
        process = self._context.Process(target=process_worker.main, args=arguments, name=f"grove-worker-{worker}")
        process.start()
        other.close()
        port = Port(mine)
        self._workers[worker] = former.reborn(port, process) if former else WorkerLife(worker, port, process)

    # -- messages ------------------------------------------------------------------------------------------------

    def _tell_all(self, kind: str) -> None:
        for life in self._workers.values():
            if life.alive:
                life.port.send(kind)

    def _read(self, life: WorkerLife) -> None:
        message = life.port.receive()
        while message is not None:
            kind, *values = message
            if kind == "stop":
                self._lost(life, "its process ended")
                return
            if kind == "ready":
                life.ready = True
                if self._paused:
                    life.port.send("pause")
            elif kind == "finished":
                self.book.finish(life.worker, values[0])
                life.restarts = 0
            elif kind == "failed":
                self._failed(life, values[0])
            else:
                life.stats = values[0]
                life.alive = life.alive and kind != "bye"
                life.at_rest = kind == "rest"
            message = life.port.receive()

    def _failed(self, life: WorkerLife, text: str) -> None:
        """Note a worker's last words; a search thread starts anew by itself, a process is about to end."""
        life.fault = text
        if life.process is not None:
            return
        self._take_back(life)
        life.ready = False
        if self._may_restart(life, text):
            self.restarted += 1
            life.port.send("again")
        else:
            life.port.send("stop")

    def _may_restart(self, life: WorkerLife, why: str) -> bool:
        """Count a restart and say so; a worker that only ever fails is given up."""
        self.lost += 1
        alive = life.may_restart()
        fate = "started again" if alive else f"given up after {life.restarts - 1} restarts"
        self.problems.append(f"worker {life.worker} is {fate}: {why}")
        return alive

    def _take_back(self, life: WorkerLife) -> None:
        """Book the games a dead worker wrote, and let others play what it held."""
        path = log_path(self.plan, life.worker)
        if path.exists():
            self.book.finish(life.worker, [record.index for record in read_log(path).records])
        self.book.lose(life.worker)
        life.end()

    def _lost(self, life: WorkerLife, why: str) -> None:
        if not life.alive or life.restart_at:
            return
        life.ready = False
        if self._stopping or life.process is None:
            life.alive = False
            return
        end_process(life.process, 1.0)
        self._take_back(life)
        if self._may_restart(life, life.fault or why):
            life.restart_at = time.monotonic() + life.pause_s()

    def _restart_due(self) -> None:
        for life in list(self._workers.values()):
            if life.restart_at and time.monotonic() >= life.restart_at:
                self.restarted += 1
                self._start_process(life.worker, life)
        if self._workers and not self.alive:
            last = self.problems[-1] if self.problems else "the process of the search threads was killed"
            raise PoolError(f"no worker is left; the last fault: {last}")

    def _hand_out(self) -> None:
        if not self.book.unassigned:
            return
        for life in self._workers.values():
            if life.ready and life.alive:
                held = self.book.held_by(life.worker)
                count = share(self.book, self.alive, self.sizes.games, held)
                if count:
                    life.port.send("indices", self.book.hand_out(life.worker, count))
