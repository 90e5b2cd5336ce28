"""The pool: starts the server and its workers, hands out games, notices who died, ends everything cleanly.

The supervisor's process runs it; it never imports torch. Call `pump` often: all messages are handled there. What is
known of a worker and of the server's process, and when they are started again, is in `supervision.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from grove.common.errors import PoolError, StorageError
from grove.workers.pool.fork_server import fork_server_of
from grove.workers.pool.plan import Kind, PoolPlan, Sizes
from grove.workers.pool.supervision import BLINK_S, ServerProcess, WorkerProcess, add_counts
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
        self.draining = False
        self.server = ServerProcess(plan, lock)
        self.workers: list[WorkerProcess] = []
        self._lock = lock
        self._pumped = time.monotonic()
        self._interrupted: Callable[[], bool] = lambda: False
        self._stopping = self._ending_now = self._paused = self._ever_ready = False

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Start the server, then the workers; returns when the server is ready and workers are on their way.

        `interrupted` is asked now and then while children start; when it says so, nothing more is started.

        Raises PoolError, with the child's own words, when the server cannot start.
        """
        plan, self._interrupted = self.plan, interrupted
        workers = [WorkerProcess(plan, number) for number in range(plan.sizes.workers)]
        if plan.pool == "process":  # search threads load the kernels in the server's process
            fork_server_of(plan.game_spec).begin()
        if plan.has_server:
            pipes = self.server.start(interrupted)
            for worker, pipe in zip(workers, pipes, strict=False):
                worker.begin(pipe, None)
                self.workers.append(worker)
            while not self.server.said:
                if interrupted():
                    return
                self.pump(0.1)
        if plan.pool == "process":
            self.workers = workers
            for worker in workers:
                self._start(worker)

    @property
    def server_ready(self) -> dict[str, Any]:
        """What the server's process said when it was ready: backend, endpoint, model."""
        return self.server.said

    @property
    def server_stats(self) -> dict[str, Any]:
        """The server's counters as it reported them last."""
        return self.server.stats

    @property
    def pool_kind(self) -> Kind:
        """`thread` or `process`."""
        return self.plan.pool

    @property
    def sizes(self) -> Sizes:
        """Workers and games a worker."""
        return self.plan.sizes

    @property
    def alive(self) -> int:
        """Workers that run or are about to be restarted."""
        return sum(worker.alive for worker in self.workers)

    @property
    def ready(self) -> int:
        """Workers that said they are ready."""
        return sum(worker.ready for worker in self.workers)

    @property
    def at_rest(self) -> bool:
        """Whether a pause has reached every living worker; their counts are then exact and stand still."""
        return self._paused and all(worker.at_rest for worker in self.workers if worker.alive)

    @property
    def processes(self) -> list[int]:
        """Process numbers of the workers and of the server."""
        return self.worker_pids + self.server_pids

    @property
    def worker_pids(self) -> list[int]:
        """Process numbers of the workers; none where they are threads of the server's process."""
        return [worker.child.pid for worker in self.workers if worker.child is not None]

    @property
    def server_pids(self) -> list[int]:
        """Process number of the server, if there is one."""
        return [] if self.server.child is None else [self.server.child.pid]

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
        for worker in self.workers:
            worker.at_rest = False
        self._tell_all("resume")

    def ask_report(self) -> None:
        """Ask the server for its counters now; they arrive in `server_stats` by `pump`."""
        self.server.send("report")

    def drain(self) -> None:
        """Start no more games, finish those in progress; see `drained`. What fails from now on is not started again."""
        self.draining = True
        for worker in self.workers:
            worker.alive = worker.running
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
        running: list[Any] = [child.pipe for child in (*self.workers, self.server) if child.running]
        waiting: list[Any] = connection.wait(running, timeout_s) if running else []
        if not running:  # everything waits for its restart
            time.sleep(timeout_s)
        for worker in self.workers:
            if worker.running and worker.pipe in waiting:
                self._read(worker)
        if self.server.running and self.server.pipe in waiting:
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
        if self.server.child and not self.server.ready:
            self.server.child.kill()  # it reads its pipe only when it is ready, and has nothing to lose
        self._tell_all("stop")
        deadline = time.monotonic() + STOP_S
        while self._patience(deadline) and any(worker.running and worker.alive for worker in self.workers):
            self.pump(BLINK_S / 20)
        self.server.send("stop")
        while self._patience(deadline) and self.server.running:
            self.pump(BLINK_S / 20)
        for worker in self.workers:  # all are killed before one is waited for
            if worker.child is not None and not worker.child.has_ended(self._patience(deadline)):
                worker.child.kill()
        for worker in self.workers:
            worker.close(0.0)
        self.server.close(self._patience(deadline))
        for worker in self.workers:
            if not worker.left:  # it may have written more than it could tell
                self.scheduler.finish(worker.number, worker.written())

    def _patience(self, deadline: float) -> float:
        return 0.0 if self._ending_now else max(0.0, deadline - time.monotonic())

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- figures -------------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, float]:
        """Return the monotone counts of all workers together, dead ones included; `peak_rss_mb` is the largest."""
        return add_counts(worker.counts for worker in self.workers)

    def games_by_worker(self) -> list[int]:
        """Return the games each worker has finished."""
        return [int(count) for count in self.by_worker("games")]

    def by_worker(self, name: str) -> list[float]:
        """Return the monotone count `name` of each worker, those before its restarts included."""
        return [worker.counts.get(name, 0) for worker in self.workers]

    # -- messages ------------------------------------------------------------------------------------------------

    def _tell_all(self, kind: str, *values: Any) -> None:
        for worker in self.workers:
            worker.send(kind, *values)

    def _start(self, worker: WorkerProcess) -> None:
        worker.start(str(self.server.said.get("endpoint", "")), self._lock, self._interrupted)

    def _read(self, worker: WorkerProcess) -> None:
        for kind, *values in worker.messages():
            if kind == "stop":
                self._lost(worker, worker.fault or "its process ended")
            elif kind == "ready":
                self._is_ready(worker, values[0])
            elif kind == "finished":
                self.scheduler.finish(worker.number, values[0])
                worker.restarts.count = self.server.restarts.count = 0
            elif kind in ("failed", "unwritable"):
                self._failed(worker, kind, values[0])
            else:
                worker.stats = values[0] or worker.stats
                worker.alive, worker.left = worker.alive and kind != "bye", kind == "bye"
                worker.at_rest = kind == "rest"

    def _is_ready(self, worker: WorkerProcess, thread: int) -> None:
        worker.ready, worker.thread, self._ever_ready = True, thread, True
        if self._paused or self.draining:
            worker.send("drain" if self.draining else "pause")

    def _read_server(self) -> None:
        server = self.server
        for kind, *values in server.messages():
            if kind == "stop":
                self._server_lost(server.fault or "it was killed")
            elif kind == "ready":
                self._server_is_ready(values[0])
            elif kind == "problem":
                self.problems.append(values[0])
            elif kind == "failed":
                server.fault = values[0]
            elif kind == "stats":
                server.stats = values[0]
                server.fork_server.begin()  # anew, if it has died: the next server will not wait for it
        seconds = server.computed_again()
        if seconds is not None:
            self.problems.append(f"the inference server computes again, {seconds:.1f} s after its end")

    def _server_is_ready(self, said: dict[str, Any]) -> None:
        """Note what it said, and say so when a restarted one has another model; its clients find it by themselves."""
        again, former = bool(self.server.said), self.server.model
        self.server.is_ready(said)
        if again and self.server.model != former:
            text = f"the restarted server serves model {self.server.model}, the former one served {former}"
            self.problems.append(text)

    # -- faults --------------------------------------------------------------------------------------------------

    def _look_for_hung(self, elapsed_s: float) -> None:
        for worker in self.workers:
            why = worker.hangs(elapsed_s, self.server.child, self.server.available and not self.plan.endpoint)
            if why and worker.child is None:  # a thread cannot be ended alone
                self._server_lost(f"search thread {worker.number} hangs: {why}")
                return
            if why and worker.child is not None:
                worker.child.kill()
                self._lost(worker, why)
        why = self.server.hangs(elapsed_s)
        if why:
            self._server_lost(why)

    def _failed(self, worker: WorkerProcess, kind: str, text: str) -> None:
        """Note a worker's last words; a search thread starts anew by itself, a process is about to end.

        Raises StorageError when it cannot write its games: no other worker could.
        """
        worker.fault, worker.ready = text, False
        self.scheduler.finish(worker.number, worker.written())
        if self._stopping:
            self.problems.append(f"worker {worker.number} ended badly: {text}")
        elif kind == "unwritable":
            raise StorageError(text)
        elif worker.child is None:
            self._take_back(worker)
            again = self._may_restart(worker, text)
            self.restarted += again
            worker.send("again" if again else "stop")

    def _lost(self, worker: WorkerProcess, why: str) -> None:
        """A worker's process ended; the end of a search thread's pipe is that of the server's process."""
        if worker.child is None or self._stopping:
            worker.pause()
            return
        if not worker.child.end(_EXIT_S):
            return  # it may still write: looked at again at the next pump
        worker.pause()
        if worker.alive:
            self._take_back(worker)
            if self._may_restart(worker, why):
                worker.restarts.schedule(time.monotonic())

    def _may_restart(self, worker: WorkerProcess, why: str) -> bool:
        """Count a fault and say what follows; a worker that only ever fails is given up."""
        self.lost += 1
        worker.alive = not self.draining and worker.restarts.allow(self._ever_ready)
        fate = "started again" if worker.alive else f"given up after {worker.restarts.count - 1} restarts"
        if self.draining:
            fate = "not started again, because the run ends"
        self.problems.append(f"worker {worker.number} is {fate}: {why}")
        return worker.alive

    def _take_back(self, worker: WorkerProcess) -> None:
        """Book the games a dead worker wrote, and let others play what it held."""
        self.scheduler.finish(worker.number, worker.written())
        self.scheduler.lose(worker.number)
        worker.end()

    def _server_lost(self, why: str) -> None:
        """The server's process ended or hangs; with the thread pool its games in flight are played again.

        Raises PoolError when it never was ready, or only ever ends.
        """
        if self._stopping:
            self.server.running = False
            return
        if not self.server.lost():
            return  # not dead for certain: looked at again at the next pump
        for worker in self.workers:
            if worker.child is None:
                worker.pause()
                self._take_back(worker)
                worker.alive = not self.draining
        if not self.server.said:
            raise PoolError(f"the inference server has ended: {why}")
        if self.draining:
            self.problems.append(f"the inference server has ended, the games in progress are dropped: {why}")
            for worker in self.workers:
                worker.alive = False
            return
        if not self.server.restarts.allow():
            restarts = self.server.restarts.count - 1
            raise PoolError(f"the inference server is given up after {restarts} restarts: {why}")
        self.problems.append(f"the inference server is started again: {why}")
        self.server.restarts.schedule(time.monotonic())

    def _restart_due(self) -> None:
        now = time.monotonic()
        if self.alive and self.server.restarts.is_due(now):  # also while draining: workers wait for it in their games
            self.server_restarted += 1
            for worker, pipe in zip(self.workers, self.server.start(), strict=False):
                worker.begin(pipe, None)
        if self.draining:
            return
        for worker in self.workers:
            if self.server.available and worker.restarts.is_due(now):  # otherwise it would wait for the server in vain
                self.restarted += 1
                self._start(worker)
        if self.workers and not self.alive:
            raise PoolError(f"no worker is left; the last fault: {self.problems[-1]}")

    def _hand_out(self) -> None:
        if self.draining or not self.scheduler.unassigned:
            return
        for worker in self.workers:
            if worker.ready and worker.alive:
                held = self.scheduler.held_by(worker.number)
                worker.hand_out(self.scheduler, share(self.scheduler, self.alive, self.sizes.games, held))
