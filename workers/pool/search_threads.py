"""Search threads beside the lanes, in the server's process. One without them does without the kernels' imports."""

from __future__ import annotations

import threading

from grove.common.errors import StorageError
from grove.game import load_game
from grove.inference_server import Client, InferenceServer
from grove.workers.pool.plan import EvaluatorJob, ServerJob
from grove.workers.pool.worker_entry import make_evaluator
from grove.workers.selfplay.control_pipe import ControlPipe, error_line
from grove.workers.selfplay.job import WorkerJob
from grove.workers.selfplay.warm import load_kernels
from grove.workers.selfplay.worker import Worker


class SearchThreads:
    """The search threads of one server's process, or of a process without one."""

    def __init__(self, job: ServerJob, pipes: list[ControlPipe]) -> None:
        """Load the kernels; nothing is started. `pipes`: to the supervisor, one a thread."""
        self._job, self._pipes = job, pipes
        self._game = load_game(job.game_spec)
        self._server: InferenceServer | None = None
        self._threads: list[threading.Thread] = []
        if job.evaluator == "server":  # others come from a fork server that has loaded them
            load_kernels(job.game_spec)

    def start(self, server: InferenceServer | None) -> None:
        """Let the threads play, served by `server` or by evaluators of their own."""
        self._server = server
        for job, pipe in zip(self._job.threads, self._pipes, strict=True):
            thread = threading.Thread(target=self._run, args=(job, pipe), name=f"search-{job.worker}")
            thread.start()
            self._threads.append(thread)

    def join(self) -> None:
        """Wait for the threads, which the supervisor has told to stop, and close their pipes."""
        for pipe, thread in zip(self._pipes, self._threads, strict=False):
            thread.join()
            pipe.close()

    def _run(self, job: WorkerJob, pipe: ControlPipe) -> None:
        """Run one search thread; a fault is told, its games go back to the supervisor, and it starts anew."""
        pause = 0.25
        while True:
            try:
                Worker(job, self._game, self._evaluator(job), pipe).run()
                return
            except StorageError as error:
                pipe.send("unwritable", error_line(error))
            except Exception as error:
                pipe.send("failed", error_line(error))
            if not _may_start_anew(pipe, pause):
                pipe.send("bye", {})
                return
            pause *= 2

    def _evaluator(self, job: WorkerJob) -> Client:
        if self._server is None:
            return make_evaluator(self._game, job, EvaluatorJob(kind=self._job.evaluator))
        return self._server.connect(window=job.groups)


def _may_start_anew(pipe: ControlPipe, pause_s: float) -> bool:
    """Wait for the supervisor's word, and a while; what it handed out before that word it has taken back."""
    kind = ""
    while kind not in ("again", "stop"):
        message = pipe.receive(1.0)
        kind = message[0] if message else ""
    if kind == "stop":
        return False
    message = pipe.receive(pause_s)
    return message is None or message[0] != "stop"
