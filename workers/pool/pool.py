"""The pool: starts the server and its workers, hands out games, notices who died, ends everything cleanly.

The supervisor's process runs it; it never imports torch. Call `pump` often: all messages are handled there. What is
known of a worker is in `worker_process.py`, of the server's process in `server_process.py`, and when a child is started
again in `restarts.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from grove.common.errors import PoolError, StorageError
from grove.workers.pool.fork_server import fork_server_of
from grove.workers.pool.plan import PoolPlan, Sizes
from grove.workers.pool.restarts import BLINK_S
from grove.workers.pool.server_process import ServerProcess, given_up
from grove.workers.pool.worker_process import WorkerProcess, add_counts, end_workers, first_start, start_process
from grove.workers.selfplay.game_scheduler import GameScheduler, share

STOP_S = 10.0
"""Longest wait for workers and server to end by themselves before they are killed."""
_EXIT_S = 1.0


class Pool:
    """Workers and, where needed, their server; use as a context manager around `start`."""

    def __init__(self, plan: PoolPlan, scheduler: GameScheduler, lock: int | None = None) -> None:
        """`lock`: descriptor that locks the games' folder; it stays locked until all children have ended, too."""
        self.plan, self.scheduler = plan, scheduler
        self.problems: list[str] = []
        """One line for every fault that was survived, and for what became of it."""
        self.restarted = 0
        """Starts of workers after their first, without those of the server's process."""
        self.server_restarted = 0
        self.lost = 0
        """Lives of workers that ended by a fault; each is followed by a restart or given up."""
        self._lock = lock
        self._workers: dict[int, WorkerProcess] = {}
        self._server = ServerProcess(plan, lock, self.problems)
        self._pumped = time.monotonic()
        self._interrupted: Callable[[], bool] = lambda: False
        self._stopping = self._ending_now = self._paused = self._ever_ready = False
        self.draining = False

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Start the server, then the workers; returns when the server is ready and workers are on their way.

        `interrupted` is asked now and then while children start; when it says so, nothing more is started.

        Raises PoolError, with the child's own words, when the server cannot start.
        """
        plan = self.plan
        self._interrupted = interrupted
        if not plan.threads_possible:  # search threads, if there are any, load the kernels in the server's process
            fork_server_of(plan.game_spec).begin()
        if plan.has_server:
            pipes = self._server.start(interrupted)
            if pipes is None:
                return
            self._workers = {worker: first_start(plan, worker, pipe, None) for worker, pipe in enumerate(pipes)}
            self._wait_for_server()
            if not self.server_ready:
                return
        if self.pool_kind == "process":
            self._workers.clear()
            for worker in range(plan.process_sizes.workers):
                self._start_process(worker, None)

    @property
    def server_ready(self) -> dict[str, Any]:
        """What the server's process said when it was ready: backend, pool and its reason, endpoint, model."""
        return self._server.ready

    @property
    def server_stats(self) -> dict[str, Any]:
        """The server's counters as it reported them last."""
        return self._server.stats

    @property
    def pool_kind(self) -> str:
        """`thread` or `process`."""
        return str(self.server_ready.get("pool", "process"))

    @property
    def sizes(self) -> Sizes:
        """Workers and games a worker of the kind in use."""
        return self.plan.thread_sizes if self.pool_kind == "thread" else self.plan.process_sizes

    @property
    def alive(self) -> int:
        """Workers that run or are about to be restarted."""
        return sum(process.alive for process in self._workers.values())

    @property
    def ready(self) -> int:
        """Workers that said they are ready."""
        return sum(process.ready for process in self._workers.values())

    @property
    def at_rest(self) -> bool:
        """Whether a pause has reached every living worker; their counts are then exact and stand still."""
        return self._paused and all(process.at_rest for process in self._workers.values() if process.alive)

    @property
    def processes(self) -> list[int]:
        """Process numbers of the workers and of the server."""
        return self.worker_pids + self.server_pids

    @property
    def worker_pids(self) -> list[int]:
        """Process numbers of the workers; none where they are threads of the server's process."""
        return [process.child.pid for process in self._workers.values() if process.child is not None]

    @property
    def server_pids(self) -> list[int]:
        """Process number of the server, if there is one."""
        return [] if self._server.child is None else [self._server.child.pid]

    @property
    def drained(self) -> bool:
        """Whether, after `drain`, no game is in progress any more."""
        return self.draining and not self.alive

    def pause(self) -> None:
        """Let the workers hold still with their trees; the server then has nothing to do. See `at_rest`."""
        self._paused = True
        self._tell_all("pause")

    def resume(self) -> None:
        """Let the workers go on."""
        self._paused = False
        for process in self._workers.values():
            process.at_rest = False
        self._tell_all("resume")

    def ask_report(self) -> None:
        """Ask the server for its counters now; they arrive in `server_stats` by `pump`."""
        self._server.send("report")

    def drain(self) -> None:
        """Start no more games, finish those in progress; see `drained`. What fails from now on is not started again."""
        self.draining = True
        for process in self._workers.values():
            process.alive = process.running
        self._tell_all("drain")

    def end_now(self) -> None:
        """Let `stop` kill everything at once; written games are safe. May be called by a signal handler."""
        self._ending_now = True

    def pump(self, timeout_s: float) -> None:
        """Handle messages for up to `timeout_s`, restart what is due, hand out games.

        Raises PoolError when the server was given up or no worker is left, StorageError when games cannot be written.
        """
        now = time.monotonic()
        elapsed_s, self._pumped = now - self._pumped, now
        pipes: list[Any] = [process.pipe for process in self._workers.values() if process.running]
        pipes += [self._server.pipe] if self._server.running else []
        ready: list[Any] = connection.wait(pipes, timeout_s) if pipes else []
        if not pipes:  # everything waits for its restart
            time.sleep(timeout_s)
        for process in list(self._workers.values()):
            if process.running and process.pipe in ready:
                self._read(process)
        if self._server.running and self._server.pipe in ready:
            self._read_server()
        if not self._stopping:
            self._look_for_hung(elapsed_s)
            self._restart_due()
            self._hand_out()

    def stop(self) -> None:
        """End workers, then the server; what does not end within `STOP_S` is killed. May be called twice."""
        if self._stopping:
            return
        self._stopping = True
        if self._server.child and not self._server.serving:
            self._server.child.kill()  # it reads its pipe only when it is ready, and has nothing to lose
        self._tell_all("stop")
        deadline = time.monotonic() + STOP_S
        while self._patience(deadline) and any(process.running and process.alive for process in self._workers.values()):
            self.pump(BLINK_S / 20)
        self._server.send("stop")
        while self._patience(deadline) and self._server.running:
            self.pump(BLINK_S / 20)
        end_workers(self._workers.values(), lambda: self._patience(deadline))
        self._server.close(self._patience(deadline))
        for process in self._workers.values():
            if not process.left:  # it may have written more than it could tell
                self.scheduler.finish(process.worker, process.written())

    def _patience(self, deadline: float) -> float:
        return 0.0 if self._ending_now else max(0.0, deadline - time.monotonic())

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- figures -------------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, float]:
        """Return the monotone counts of all workers together, dead ones included; `peak_rss_mb` is the largest."""
        return add_counts(process.counts for process in self._workers.values())

    def games_by_worker(self) -> list[int]:
        """Return the games each worker has finished."""
        return [int(count) for count in self.by_worker("games")]

    def by_worker(self, name: str) -> list[float]:
        """Return the monotone count `name` of each worker, those before its restarts included."""
        return [process.counts.get(name, 0) for process in self._workers.values()]

    # -- children ------------------------------------------------------------------------------------------------

    def _wait_for_server(self) -> None:
        while not self.server_ready and not self._interrupted():
            self.pump(0.1)

    def _start_process(self, worker: int, former: WorkerProcess | None) -> None:
        endpoint = str(self.server_ready.get("endpoint", ""))
        ends = start_process(self.plan, worker, endpoint, self._lock, self._interrupted)
        if ends is not None:
            self._workers[worker] = former.restart(*ends) if former else first_start(self.plan, worker, *ends)

    # -- messages ------------------------------------------------------------------------------------------------

    def _tell_all(self, kind: str, *values: Any) -> None:
        for process in self._workers.values():
            if process.running:
                process.pipe.send(kind, *values)

    def _read(self, process: WorkerProcess) -> None:
        while (message := process.pipe.receive()) is not None:
            kind, *values = message
            process.heard()
            if kind == "stop":
                self._lost(process, process.fault or "its process ended")
                return
            if kind == "ready":
                self._is_ready(process, values[0])
            elif kind == "finished":
                self.scheduler.finish(process.worker, values[0])
                process.restarts.count = self._server.restarts.count = 0
            elif kind in ("failed", "unwritable"):
                self._failed(process, kind, values[0])
            else:
                process.stats = values[0] or process.stats
                process.alive, process.left = process.alive and kind != "bye", kind == "bye"
                process.at_rest = kind == "rest"

    def _is_ready(self, process: WorkerProcess, thread: int) -> None:
        process.ready, process.thread, self._ever_ready = True, thread, True
        if self._paused or self.draining:
            process.pipe.send("drain" if self.draining else "pause")

    def _read_server(self) -> None:
        former = self.server_ready
        served = str(self.server_stats.get("model_version", former.get("model", "")))
        why = self._server.read()
        if why:
            self._server_lost(why)
        elif former and self.server_ready is not former:
            self._server_is_back(served)
        seconds = self._server.computed_again()
        if seconds is not None:
            self.problems.append(f"the inference server computes again, {seconds:.1f} s after its end")

    # -- faults --------------------------------------------------------------------------------------------------

    def _look_for_hung(self, elapsed_s: float) -> None:
        for process in list(self._workers.values()):
            why = process.hangs(elapsed_s, self._server.child, self._server.available and not self.plan.endpoint)
            if why and process.child is None:  # a thread cannot be ended alone
                self._server_lost(f"search thread {process.worker} hangs: {why}")
                return
            if why and process.child is not None:
                process.child.kill()
                self._lost(process, why)
        why = self._server.hangs(elapsed_s)
        if why:
            self._server_lost(why)

    def _failed(self, process: WorkerProcess, kind: str, text: str) -> None:
        """Note a worker's last words; a search thread starts anew by itself, a process is about to end.

        Raises StorageError when it cannot write its games: no other worker could.
        """
        process.fault, process.ready = text, False
        self.scheduler.finish(process.worker, process.written())
        if self._stopping:
            self.problems.append(f"worker {process.worker} ended badly: {text}")
        elif kind == "unwritable":
            raise StorageError(text)
        elif process.child is None:
            self._take_back(process)
            again = self._may_restart(process, text)
            self.restarted += again
            process.pipe.send("again" if again else "stop")

    def _lost(self, process: WorkerProcess, why: str) -> None:
        """A worker's process ended; the end of a search thread's pipe is that of the server's process."""
        if process.child is None or self._stopping:
            process.pause()
            return
        if not process.child.end(_EXIT_S):
            return  # it may still write: looked at again at the next pump
        process.pause()
        self._server.send("gone", process.client)
        if process.alive:
            self._take_back(process)
            if self._may_restart(process, why):
                process.restarts.schedule(time.monotonic())

    def _may_restart(self, process: WorkerProcess, why: str) -> bool:
        """Count a fault and say what follows; a worker that only ever fails is given up."""
        self.lost += 1
        process.alive = not self.draining and process.restarts.allow(self._ever_ready)
        fate = "started again" if process.alive else f"given up after {process.restarts.count - 1} restarts"
        if self.draining:
            fate = "not started again, because the run ends"
        self.problems.append(f"worker {process.worker} is {fate}: {why}")
        return process.alive

    def _take_back(self, process: WorkerProcess) -> None:
        """Book the games a dead worker wrote, and let others play what it held."""
        self.scheduler.finish(process.worker, process.written())
        self.scheduler.lose(process.worker)
        process.end()

    def _server_lost(self, why: str) -> None:
        """The server's process ended or hangs; with the thread pool its games in flight are played again.

        Raises PoolError when it never was ready, or only ever ends.
        """
        if self._stopping:
            self._server.running = False
            return
        if not self._server.lost():
            return  # not dead for certain: looked at again at the next pump
        for process in self._workers.values():
            if process.child is None:
                process.pause()
                self._take_back(process)
                process.alive = not self.draining
        if not self.server_ready:
            raise PoolError(f"the inference server has ended: {why}")
        if self.draining:
            self.problems.append(f"the inference server has ended, the games in progress are dropped: {why}")
            for process in self._workers.values():
                process.alive = False
            return
        if not self._server.restarts.allow():
            raise given_up(self._server, why)
        self.problems.append(f"the inference server is started again: {why}")
        self._server.restarts.schedule(time.monotonic())

    def _server_is_back(self, former_model: str) -> None:
        """Let the worker processes shake hands with the restarted server at once."""
        self._tell_all("server", str(self.server_ready.get("epoch", "")))
        model = str(self.server_ready.get("model", ""))
        if model != former_model:
            self.problems.append(f"the restarted server serves model {model}, the former one served {former_model}")

    def _restart_due(self) -> None:
        now = time.monotonic()
        if self.alive and self._server.restarts.is_due(now):  # also while draining: workers wait for it in their games
            self.server_restarted += 1
            for worker, pipe in enumerate(self._server.start_again()):
                self._workers[worker] = self._workers[worker].restart(pipe, None)
        if self.draining:
            return
        for process in list(self._workers.values()):
            # otherwise a new worker would wait for it in vain
            if self._server.available and process.restarts.is_due(now):
                self.restarted += 1
                self._start_process(process.worker, process)
        if self._workers and not self.alive:
            raise PoolError(f"no worker is left; the last fault: {self.problems[-1]}")

    def _hand_out(self) -> None:
        if self.draining or not self.scheduler.unassigned:
            return
        for process in self._workers.values():
            if process.ready and process.alive:
                process.hand_out(
                    self.scheduler,
                    share(self.scheduler, self.alive, self.sizes.games, self.scheduler.held_by(process.worker)),
                )
