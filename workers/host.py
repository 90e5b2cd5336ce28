"""The server's process: it owns the model and the device and, with the thread pool, runs the search threads too."""

from __future__ import annotations

import gc
import signal
import threading
import time
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from common.errors import SettingError
from game import load_game
from game.contract import Game
from inference_server import InferenceServer, ServerSettings, private_endpoint
from inference_server.network_settings import NetworkSettings
from inference_server.policy import Policy, PolicyKind
from workers.evaluators import Evaluator, ServedEvaluator, row_spec
from workers.gil import thread_verdict
from workers.port import Port, last_words
from workers.process_worker import EvaluatorJob, make_evaluator
from workers.worker import Worker, WorkerJob, peak_rss_mb

REPORT_S = 0.5
"""Seconds between reports of the server's counters."""
READY_S = 300.0
"""Longest wait for the lanes; compiling a large user network takes minutes."""
_PROBE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class HostJob:
    """What the process shall do; plain values."""

    game_spec: str
    evaluator: str
    """`server`, or an evaluator without a network whose worker threads live here."""
    network: NetworkSettings
    server: ServerSettings
    pool: str
    """`thread`, `process`, or `auto`: decided here, by measurement."""
    threads: tuple[WorkerJob, ...] = ()
    """Jobs of the search threads, if it comes to threads."""
    endpoint: str = ""
    """Where to listen for worker processes; empty = a private socket of this machine."""
    metrics_port: int = 0
    """Port of /metrics; 0 = none."""
    policy: PolicyKind = Policy
    """Rule by which the server sends batches off."""


def main(job: HostJob, connection: Connection, worker_connections: list[Connection]) -> None:
    """Serve until the supervisor says stop or is gone. Faults go to the supervisor as one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    port = Port(connection)
    try:
        with ExitStack() as stack:
            _Host(job, port, worker_connections, stack).run()
    except Exception as error:
        port.send("failed", last_words(error))
    finally:
        port.close()


class _Host:
    def __init__(self, job: HostJob, port: Port, connections: list[Connection], stack: ExitStack) -> None:
        self._job, self._port, self._stack = job, port, stack
        self._ports = [Port(connection) for connection in connections]
        self._game = load_game(job.game_spec)
        self._server: InferenceServer | None = None
        self._threads: list[threading.Thread] = []
        self._ready: dict[str, Any] = {"pool": "thread", "pool_reason": "", "endpoint": ""}

    def run(self) -> None:
        if self._job.evaluator == "server":
            self._start_server()
        else:
            self._ready["pool_reason"] = f"the {self._job.evaluator} evaluator needs no server"
        if self._ready["pool"] == "thread":
            self._start_threads()
        gc.freeze()  # as in a worker process
        self._port.send("ready", self._ready)
        reported = 0.0
        while True:
            message = self._port.receive(REPORT_S)
            if message is not None and message[0] == "stop":
                break
            if message is not None or time.monotonic() - reported >= REPORT_S / 2:
                reported = time.monotonic()
                self._port.send("stats", self._stats())
        for port, thread in zip(self._ports, self._threads, strict=False):
            thread.join()
            port.close()
        self._port.send("bye", self._stats())

    def _start_server(self) -> None:
        from inference_server.backend import make_backends, network_rate

        job = self._job
        backends = make_backends(
            row_spec(self._game), job.network, job.server.max_batch, job.server.lanes, job.server.deterministic
        )
        server = self._stack.enter_context(InferenceServer(row_spec(self._game), backends, job.server, job.policy))
        server.wait_ready(READY_S)
        self._server = server
        if job.metrics_port:
            self._stack.enter_context(metrics_at(server, job.metrics_port))
        self._ready |= {"backend": backends[0].describe(), "lanes": len(backends), "model": server.model_version}
        if job.pool != "auto":
            self._ready |= {"pool": job.pool, "pool_reason": "as asked for"}
        else:
            rows = max(1, job.threads[0].games // job.threads[0].groups)
            rate = network_rate(backends, _PROBE_S, job.server.max_batch) if self._game.compiled else 0.0
            fits, reason = thread_verdict(self._game, job.threads[0].search.simulations, rate, rows)
            self._ready |= {"pool": "thread" if fits else "process", "pool_reason": reason}
        if self._ready["pool"] == "process":
            endpoint = job.endpoint or self._stack.enter_context(private_endpoint())
            self._ready["endpoint"] = server.bind(endpoint)

    def _start_threads(self) -> None:
        for job, port in zip(self._job.threads, self._ports, strict=True):
            thread = threading.Thread(target=self._run_thread, args=(job, port), name=f"search-{job.worker}")
            thread.start()
            self._threads.append(thread)

    def _run_thread(self, job: WorkerJob, port: Port) -> None:
        """Run one search thread; a fault is told, its games go back to the supervisor, and it starts anew."""
        pause = 0.25
        while True:
            try:
                Worker(job, self._game, self._evaluator(self._game, job), port).run()
                return
            except Exception as error:
                port.send("failed", last_words(error))
            if not _may_start_anew(port, pause):
                return
            pause *= 2

    def _evaluator(self, game: Game, job: WorkerJob) -> Evaluator:
        if self._server is None:
            return make_evaluator(game, job, EvaluatorJob(kind=self._job.evaluator))
        client = self._server.connect(window=job.groups, name=f"thread-{job.worker}")
        return ServedEvaluator(client, game.num_actions)

    def _stats(self) -> dict[str, Any]:
        stats = self._server.stats() if self._server else {}
        return {**stats, "peak_rss_mb": peak_rss_mb()}


def metrics_at(server: InferenceServer, port: int) -> AbstractContextManager[Any]:
    """Tell the server's figures at /metrics of `port` until the context is left. Raises SettingError."""
    try:
        from inference_server.metrics import Exporter
    except ImportError:
        why = "the package prometheus-client is not installed"
        raise SettingError.of("metrics-port", port, why, "install it, or leave the port out") from None
    return closing(Exporter(server.stats, port))


def _may_start_anew(port: Port, pause_s: float) -> bool:
    """Wait for the supervisor's word, and a while; what it handed out before that word it has taken back."""
    kind = ""
    while kind not in ("again", "stop"):
        message = port.receive(1.0)
        kind = message[0] if message else ""
    message = port.receive(pause_s)
    return kind == "again" and (message is None or message[0] != "stop")
