"""The pool: starts the server and its workers, hands out games, notices who died, ends everything cleanly.

The supervisor's process runs it; it never imports torch. Call `pump` often: all messages are handled there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from common.errors import PoolError
from workers import host, process_worker
from workers.children import end_process, process_context, remove_socket_folder, start_forkserver
from workers.index_book import IndexBook, share
from workers.plan import PoolPlan, Sizes
from workers.port import Port
from workers.records import read_log
from workers.worker import WorkerJob

START_S = 300.0
"""Longest wait for the server; compiling a large user network takes minutes."""
STOP_S = 10.0
"""Longest wait for workers and server to end by themselves before they are killed."""
MOST_RESTARTS = 5
"""Restarts of one worker without a finished game in between, before it is given up."""


@dataclass
class _Handle:
    worker: int
    port: Port
    process: BaseProcess | None
    ready: bool = False
    stats: dict[str, float] = field(default_factory=dict)
    earlier: dict[str, float] = field(default_factory=dict)  # counts of former lives
    restarts: int = 0
    restart_at: float = 0.0
    fault: str = ""  # what it said last
    alive: bool = True
    at_rest: bool = False


class Pool:
    """Workers and, where needed, their server; use as a context manager around `start`."""

    def __init__(self, plan: PoolPlan, book: IndexBook) -> None:
        self.plan, self.book = plan, book
        self.host_ready: dict[str, Any] = {}
        """What the server's process said when it was ready: backend, pool and its reason, endpoint, model."""
        self.host_stats: dict[str, Any] = {}
        self.problems: list[str] = []
        """One line for every fault that was survived."""
        self.restarted = 0
        self.lost = 0
        """Lives of workers that ended by a fault; each is followed by a restart or given up."""
        self._context = process_context(plan.game_spec)
        self._handles: dict[int, _Handle] = {}
        self._host: tuple[BaseProcess, Port] | None = None
        self._host_alive = False
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
            self._start_host(threads_possible)
            self._wait_for_host(interrupted)
            if not self.host_ready:
                return
        if self.pool_kind == "process":
            self._handles.clear()
            for worker in range(plan.process_sizes.workers):
                self._start_process(worker, None)

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
        return sum(handle.alive for handle in self._handles.values())

    @property
    def ready(self) -> int:
        """Workers that said they are ready."""
        return sum(handle.ready for handle in self._handles.values())

    @property
    def at_rest(self) -> bool:
        """Whether a pause has reached every living worker; their counts are then exact and stand still."""
        return self._paused and all(handle.at_rest for handle in self._handles.values() if handle.alive)

    @property
    def processes(self) -> list[int]:
        """Process numbers of the workers and of the server."""
        return self.worker_pids + ([self.host_pid] if self.host_pid is not None else [])

    @property
    def worker_pids(self) -> list[int]:
        """Process numbers of the workers; none where they are threads of the server's process."""
        children = [handle.process for handle in self._handles.values()]
        return [child.pid for child in children if child is not None and child.pid is not None]

    @property
    def host_pid(self) -> int | None:
        """Process number of the server, or None without one."""
        return self._host[0].pid if self._host else None

    def pause(self) -> None:
        """Let the workers hold still with their trees; the server then has nothing to do. See `at_rest`."""
        self._paused = True
        self._tell_all("pause")

    def resume(self) -> None:
        """Let the workers go on."""
        self._paused = False
        for handle in self._handles.values():
            handle.at_rest = False
        self._tell_all("resume")

    def ask_report(self) -> None:
        """Ask the server for its counters now; they arrive in `host_stats` by `pump`."""
        if self._host and self._host_alive:
            self._host[1].send("report")

    def pump(self, timeout_s: float) -> None:
        """Handle messages for up to `timeout_s`, restart workers that are due, hand out games.

        Raises PoolError when the server has ended or no worker is left.
        """
        # A worker that has ended would be reported again and again.
        ports: list[Any] = [handle.port for handle in self._handles.values() if handle.alive and not handle.restart_at]
        if self._host and self._host_alive:
            ports.append(self._host[1])
        ready: list[Any] = connection.wait(ports, timeout_s) if ports else []
        if not ports:  # every worker waits for its restart
            time.sleep(timeout_s)
        for handle in list(self._handles.values()):
            if handle.port in ready:
                self._read(handle)
        if self._host and self._host[1] in ready:
            self._read_host()
        if not self._stopping:
            self._restart_due()
            self._hand_out()

    def stop(self) -> None:
        """End workers, then the server; what does not end within `STOP_S` is killed. May be called twice."""
        if self._stopping:
            return
        self._stopping = True
        if self._host and not self.host_ready:
            self._host[0].kill()  # it reads its pipe only when it is ready, and has nothing to lose
        self._tell_all("stop")
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline and any(h.alive for h in self._handles.values()):
            self.pump(0.05)
        if self._host and self._host_alive:
            self._host[1].send("stop")
            while time.monotonic() < deadline and self._host_alive:
                self.pump(0.05)
        processes = [h.process for h in self._handles.values() if h.process] + ([self._host[0]] if self._host else [])
        for process in processes:
            end_process(process, max(0.1, deadline - time.monotonic()))
        for handle in self._handles.values():
            handle.port.close()
        remove_socket_folder(str(self.host_ready.get("endpoint", "")))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- figures -------------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, float]:
        """Return the monotone counts of all workers together, dead ones included; `peak_rss_mb` is the largest."""
        out: dict[str, float] = {}
        for handle in self._handles.values():
            for part in (handle.earlier, handle.stats):
                for name, value in part.items():
                    out[name] = max(out.get(name, 0), value) if name == "peak_rss_mb" else out.get(name, 0) + value
        return out

    def games_by_worker(self) -> list[int]:
        """Return the games each worker has finished."""
        return [int(count) for count in self.by_worker("games")]

    def by_worker(self, name: str) -> list[float]:
        """Return the monotone count `name` of each worker, its former lives included."""
        return [h.earlier.get(name, 0) + h.stats.get(name, 0) for h in self._handles.values()]

    # -- children ------------------------------------------------------------------------------------------------

    def _job(self, worker: int, sizes: Sizes) -> WorkerJob:
        plan = self.plan
        return WorkerJob(
            worker=worker,
            game_spec=plan.game_spec,
            run_seed=plan.run_seed,
            search=plan.search,
            games=sizes.games,
            groups=sizes.groups,
            log_path=str(plan.games_folder / f"worker-{worker:03d}.jsonl"),
            stagger=plan.stagger,
        )

    def _start_host(self, threads: bool) -> None:
        plan, theirs, jobs = self.plan, [], []
        if threads:
            for worker in range(plan.thread_sizes.workers):
                mine, other = self._context.Pipe()
                self._handles[worker] = _Handle(worker, Port(mine), None)
                theirs.append(other)
                jobs.append(self._job(worker, plan.thread_sizes))
        job = host.HostJob(
            game_spec=plan.game_spec,
            evaluator=plan.evaluator,
            network=plan.network,
            server=plan.server,
            pool=plan.pool,
            threads=tuple(jobs),
            metrics_port=plan.metrics_port,
        )
        mine, other = self._context.Pipe()
        process = self._context.Process(target=host.main, args=(job, other, theirs), name="grove-server")
        process.start()
        for end in (other, *theirs):
            end.close()
        self._host, self._host_alive = (process, Port(mine)), True

    def _wait_for_host(self, interrupted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not self.host_ready and not interrupted():
            if time.monotonic() > deadline:
                raise PoolError(f"the server was not ready within {START_S:.0f} s; see `grove doctor`")
            self.pump(0.1)

    def _start_process(self, worker: int, former: _Handle | None) -> None:
        plan = self.plan
        mine, other = self._context.Pipe()
        evaluator = process_worker.EvaluatorJob(
            kind=plan.evaluator,
            endpoint=plan.endpoint or str(self.host_ready.get("endpoint", "")),
            network=plan.network,
            direct_compile=plan.direct_compile,
        )
        arguments = (self._job(worker, plan.process_sizes), evaluator, other)
        process = self._context.Process(target=process_worker.main, args=arguments, name=f"grove-worker-{worker}")
        process.start()
        other.close()
        handle = _Handle(worker, Port(mine), process)
        if former is not None:
            former.port.close()
            handle.earlier, handle.restarts = former.earlier, former.restarts
        self._handles[worker] = handle

    # -- messages ------------------------------------------------------------------------------------------------

    def _tell_all(self, kind: str) -> None:
        for handle in self._handles.values():
            if handle.alive:
                handle.port.send(kind)

    def _read(self, handle: _Handle) -> None:
        message = handle.port.receive()
        while message is not None:
            kind, *values = message
            if kind == "stop":
                self._lost(handle, "its process ended")
                return
            if kind == "ready":
                handle.ready = True
                if self._paused:
                    handle.port.send("pause")
            elif kind == "finished":
                self.book.finish(handle.worker, values[0])
                handle.restarts = 0
            elif kind == "failed":
                self._failed(handle, values[0])
            else:
                handle.stats = values[0]
                handle.alive = handle.alive and kind != "bye"
                handle.at_rest = kind == "rest"
            message = handle.port.receive()

    def _failed(self, handle: _Handle, text: str) -> None:
        """Note a worker's last words; a search thread starts anew by itself, a process is about to end."""
        handle.fault = text
        if handle.process is not None:
            return
        self._take_back(handle)
        handle.ready = False
        if self._may_restart(handle, text):
            self.restarted += 1
            handle.port.send("again")
        else:
            handle.port.send("stop")

    def _may_restart(self, handle: _Handle, why: str) -> bool:
        """Count a restart and say so; a worker that only ever fails is given up."""
        self.lost += 1
        handle.restarts += 1
        handle.alive = handle.restarts <= MOST_RESTARTS
        fate = "started again" if handle.alive else f"given up after {MOST_RESTARTS} restarts"
        self.problems.append(f"worker {handle.worker} is {fate}: {why}")
        return handle.alive

    def _take_back(self, handle: _Handle) -> None:
        """Book the games a dead worker wrote, and let others play what it held."""
        path = self.plan.games_folder / f"worker-{handle.worker:03d}.jsonl"
        if path.exists():
            self.book.finish(handle.worker, [record.index for record in read_log(path).records])
        self.book.lose(handle.worker)
        counts = {**handle.stats}
        for name, value in handle.earlier.items():
            counts[name] = max(counts.get(name, 0), value) if name == "peak_rss_mb" else counts.get(name, 0) + value
        handle.earlier, handle.stats = counts, {}

    def _lost(self, handle: _Handle, why: str) -> None:
        if not handle.alive or handle.restart_at:
            return
        handle.ready = False
        if self._stopping or handle.process is None:
            handle.alive = False
            return
        end_process(handle.process, 1.0)
        self._take_back(handle)
        if self._may_restart(handle, handle.fault or why):
            handle.restart_at = time.monotonic() + 0.25 * 2 ** (handle.restarts - 1)

    def _restart_due(self) -> None:
        for handle in list(self._handles.values()):
            if handle.restart_at and time.monotonic() >= handle.restart_at:
                self.restarted += 1
                self._start_process(handle.worker, handle)
        if self._handles and not self.alive:
            last = self.problems[-1] if self.problems else "the process of the search threads was killed"
            raise PoolError(f"no worker is left; the last fault: {last}")

    def _hand_out(self) -> None:
        if not self.book.unassigned:
            return
        for handle in self._handles.values():
            if handle.ready and handle.alive:
                held = self.book.held_by(handle.worker)
                count = share(self.book, self.alive, self.sizes.games, held)
                if count:
                    handle.port.send("indices", self.book.hand_out(handle.worker, count))

    def _read_host(self) -> None:
        assert self._host is not None
        message = self._host[1].receive()
        while message is not None:
            kind, *values = message
            if kind == "stop":
                self._host_alive = False
                if not self._stopping:
                    said = self.problems[-1] if self.problems else "it was killed"
                    raise PoolError(f"the inference server has ended: {said}")
                return
            if kind == "ready":
                self.host_ready = values[0]
            elif kind == "failed":
                self.problems.append(values[0])
            else:
                self.host_stats = values[0]
            message = self._host[1].receive()
