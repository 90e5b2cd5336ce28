"""The server's process: it owns the model and the device and, with the thread pool, runs the search threads too."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grove.common.errors import PoolError
from grove.common.usage import peak_rss_mb
from grove.inference_server import InferenceServer
from grove.inference_server.channels.keys import ServerKeys
from grove.inference_server.model_watch import ModelWatch
from grove.workers.pool.children import Held
from grove.workers.pool.parent_watch import ended_with_supervisor
from grove.workers.pool.plan import ServerJob
from grove.workers.selfplay.control_pipe import ControlPipe, error_line

if TYPE_CHECKING:
    from grove.workers.pool.search_threads import SearchThreads

FAULT_STATUS = 3
"""Exit status of a server that ends because of a fault."""
REPORT_S = 0.5
"""Seconds between reports of the server's counters."""
_FIRST_S = 0.05
"""The same until the first batch, so that the supervisor learns at once that it computes."""
READY_S = 300.0
"""Longest wait for the lanes; compiling a large user network takes minutes."""


def main(job: ServerJob, connection: Connection, worker_connections: list[Connection], _lock: Held | None) -> None:
    """Serve until the supervisor says stop or is gone. Faults go to the supervisor as one line."""
    pipe, failed = ControlPipe(connection), False
    with ended_with_supervisor(job.endpoint):
        try:
            with ExitStack() as stack:
                _Server(job, pipe, worker_connections, stack).run()
        except Exception as error:
            pipe.send("failed", error_line(error))
            failed = True
    if failed:
        os._exit(FAULT_STATUS)  # a lane that hangs, or a search thread, would keep the process for ever


class _Server:
    def __init__(self, job: ServerJob, pipe: ControlPipe, connections: list[Connection], stack: ExitStack) -> None:
        self._job, self._pipe, self._stack = job, pipe, stack
        self._pipes = [ControlPipe(connection) for connection in connections]
        self._server: InferenceServer | None = None
        self._threads: SearchThreads | None = None
        self._ready: dict[str, Any] = {"endpoint": ""}

    def run(self) -> None:
        """Serve until told to stop."""
        if self._job.evaluator == "server":
            self._start_server()
        else:
            self._threads = self._load_threads()
        if self._threads is not None:
            self._threads.start(self._server)
        gc.freeze()  # as in a worker process
        self._pipe.send("ready", self._ready)
        self._serve()
        if self._threads is not None:
            self._threads.join()
        if self._server is not None:
            self._tell_problems(self._server)
        self._pipe.send("bye", self._stats())

    def _serve(self) -> None:
        """Report, and do what the supervisor says, until it says stop."""
        began, reported = False, 0.0
        while True:
            message = self._pipe.receive(REPORT_S if began else _FIRST_S)
            if message is not None and message[0] == "stop":
                return
            stats, now = self._stats(), time.monotonic()
            begins = not began and bool(stats.get("batches", True))
            if message is not None or begins or now - reported >= REPORT_S / 2:
                began, reported = began or begins, now
                self._pipe.send("stats", stats)
            self._look_after()

    def _start_server(self) -> None:
        from grove.inference_server.backends.backend import ModelFiles, make_backends

        job, rows = self._job, self._job.row_spec
        backends = make_backends(rows, job.network, job.server.max_batch, job.server.lanes, job.server.deterministic)
        server = self._stack.enter_context(InferenceServer(rows, backends, job.server, job.policy))
        if job.threads:
            self._threads = self._load_threads()  # while the lanes get ready in threads of their own
        if not server.wait_ready(READY_S):
            raise PoolError(f"the lanes were not ready within {READY_S:.0f} s; see `grove doctor`")
        self._server = server
        if job.metrics_port:
            from grove.inference_server.metrics import Exporter

            self._stack.enter_context(closing(Exporter(server.stats, job.metrics_port)))
        self._ready |= {"backend": backends[0].describe(), "lanes": len(backends)}
        if job.models:
            source = ModelFiles(rows, job.network)
            self._stack.enter_context(ModelWatch(server, Path(job.models), source))
        self._ready |= {"model": server.model_version}
        if not job.threads:
            self._ready["endpoint"] = server.bind(job.endpoint, ServerKeys(job.keys) if job.keys else None)

    def _load_threads(self) -> SearchThreads:
        """Return the search threads, not yet started, with their kernels compiled, which may take minutes."""
        from grove.workers.pool.search_threads import SearchThreads

        with self._signs_of_life():
            return SearchThreads(self._job, self._pipes)

    @contextmanager
    def _signs_of_life(self) -> Iterator[None]:
        """Let the supervisor hear meanwhile that this process lives."""
        done = threading.Event()

        def tell() -> None:
            while not done.wait(REPORT_S):
                self._pipe.send("loading")

        telling = threading.Thread(target=tell, name="signs-of-life")
        telling.start()
        try:
            yield
        finally:
            done.set()
            telling.join()

    def _look_after(self) -> None:
        """Tell of faults that were survived; raise PoolError for one that was not."""
        if self._server is not None:
            self._tell_problems(self._server)
            self._server.check()

    def _tell_problems(self, server: InferenceServer) -> None:
        for problem in server.new_problems():
            self._pipe.send("problem", problem)

    def _stats(self) -> dict[str, Any]:
        stats = self._server.stats() if self._server else {}
        return {**stats, "peak_rss_mb": peak_rss_mb()}
