"""The main functions of a profile's processes: the usual ones, with timers around what they call.

They run in worker and server processes only. What they wrap are the methods of single objects, so a process without
them pays nothing, not even for asking whether it is profiled.
"""

from __future__ import annotations

import cProfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from types import ModuleType, SimpleNamespace
from typing import Any

import zmq

from grove.bench.profile.stages import PAUSED, Recorder
from grove.game.contract import Game
from grove.inference_server import Client, InferenceServer, server
from grove.inference_server.channels import zmq_channel
from grove.workers.pool import search_threads, server_entry, worker_entry
from grove.workers.pool.children import Held
from grove.workers.pool.plan import EvaluatorJob, ServerJob
from grove.workers.selfplay.control_pipe import ControlPipe
from grove.workers.selfplay.evaluators import OwnEvaluator
from grove.workers.selfplay.group import Group
from grove.workers.selfplay.job import WorkerJob
from grove.workers.selfplay.worker import Worker

PROFILED_WORKER = 0
"""The worker whose loop cProfile watches."""

MakeWorker = Callable[..., Worker]


# -- with stage timers -------------------------------------------------------------------------------------------------


def timed_worker_main(job: WorkerJob, evaluator_job: EvaluatorJob, connection: Connection, lock: Held | None) -> None:
    """Be a worker process whose stages are timed."""
    recorder = Recorder()
    with replaced(worker_entry, "Worker", _timed_workers(recorder)):
        worker_entry.main(job, evaluator_job, connection, lock)


def timed_host_main(job: ServerJob, connection: Connection, workers: list[Connection], lock: Held | None) -> None:
    """Be the server's process with its lanes, its I/O thread and any search threads timed."""
    recorder = Recorder()
    clock = SimpleNamespace(**vars(zmq))
    clock.Poller = lambda: _timed_poller(recorder)
    with ExitStack() as stack:
        for module, name, value in (
            (search_threads, "Worker", _timed_workers(recorder)),
            (server_entry, "InferenceServer", _timed_servers(recorder)),
            (server, "ZmqChannel", _timed_channel(recorder)),
            (zmq_channel, "zmq", clock),
        ):
            stack.enter_context(replaced(module, name, value))
        server_entry.main(job, connection, workers, lock)


@contextmanager
def replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Let `module.name` be `value` meanwhile."""
    former = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, former)


def _timed_workers(recorder: Recorder) -> MakeWorker:
    def make(job: WorkerJob, game: Game, evaluator: Client, pipe: ControlPipe) -> Worker:
        worker = Worker(job, game, evaluator, pipe)
        _time_worker(recorder, worker)
        _time_evaluator(recorder, evaluator)
        for group in worker._groups:
            _time_group(recorder, group)
        return worker

    return make


def _time_worker(recorder: Recorder, worker: Worker) -> None:
    recorder.wrap(worker, "_save", "record")
    recorder.wrap(worker, "_report", "messages")
    listen, stats = worker._listen, worker._stats
    waiting, listening = recorder.timed(PAUSED, listen), recorder.timed("messages", listen)

    def listen_as_it_stands() -> None:
        (waiting if worker._at_rest else listening)()

    replace: dict[str, Callable[[], Any]] = {
        "_listen": listen_as_it_stands,
        "_stats": lambda: {**stats(), **recorder.counters()},
    }
    for name, function in replace.items():
        setattr(worker, name, function)


def _time_evaluator(recorder: Recorder, evaluator: Client) -> None:
    own = isinstance(evaluator, OwnEvaluator)
    recorder.wrap(evaluator, "submit", "pack")
    recorder.wrap(evaluator, "collect", "compute" if own else "wait")
    recorder.wrap(evaluator, "set_window", "messages")
    for method, stage in (("_send", "send"), ("_act", "unpack")):
        if hasattr(evaluator, method):  # the ZeroMQ client's; a search thread has neither
            recorder.wrap(evaluator, method, stage)


def _time_group(recorder: Recorder, group: Group) -> None:
    for method, stage in (("tell", "tell"), ("play", "play"), ("start", "start")):
        recorder.wrap(group, method, stage)
    forest = group.forest
    for method in ("search", "ask"):
        recorder.wrap(forest, method, "ask")
    for method in ("step", "observe"):
        recorder.wrap(forest._kernels, method, method)


def _timed_servers(recorder: Recorder) -> Callable[..., InferenceServer]:
    def make(*args: Any) -> InferenceServer:
        made = InferenceServer(*args)
        batcher = made._batcher
        for method, stage in (("submit", "stage"), ("next_batch", "wait"), ("complete", "reply")):
            recorder.wrap(batcher, method, stage)
        for backend in made._backends:
            for method in ("launch", "finish"):
                recorder.wrap(backend, method, "compute")
        stats, name = made.stats, "stats"
        setattr(made, name, lambda: {**stats(), "stages": recorder.threads()})
        return made

    return make


def _timed_channel(recorder: Recorder) -> type[zmq_channel.ZmqChannel]:
    """Return the channel with its I/O thread's methods timed; it starts the thread before anybody could wrap them."""
    parent = zmq_channel.ZmqChannel
    stages = {
        "_receive": "receive",
        "_send_answers": "reply",
        "_forget_silent": "look after",
    }
    return type("TimedChannel", (parent,), {k: recorder.timed(v, getattr(parent, k)) for k, v in stages.items()})


def _timed_poller(recorder: Recorder) -> Any:
    poller = zmq.Poller()
    recorder.wrap(poller, "poll", "wait")
    return poller


# -- with cProfile -----------------------------------------------------------------------------------------------------


def watched_worker_main(
    path: str, job: WorkerJob, evaluator_job: EvaluatorJob, connection: Connection, lock: Held | None
) -> None:
    """Be a worker process; the first one writes what cProfile saw of its slices to `path`."""
    with replaced(worker_entry, "Worker", _watched_workers(path)):
        worker_entry.main(job, evaluator_job, connection, lock)


def watched_host_main(
    path: str, job: ServerJob, connection: Connection, workers: list[Connection], lock: Held | None
) -> None:
    """Be the server's process; its first search thread writes what cProfile saw of its slices to `path`."""
    with replaced(search_threads, "Worker", _watched_workers(path)):
        server_entry.main(job, connection, workers, lock)


def _watched_workers(path: str) -> MakeWorker:
    def make(job: WorkerJob, game: Game, evaluator: Client, pipe: ControlPipe) -> Worker:
        if job.worker == PROFILED_WORKER:
            _watch(pipe, path)
        return Worker(job, game, evaluator, pipe)

    return make


def _watch(pipe: ControlPipe, path: str) -> None:
    """Run cProfile in the worker's thread from each `resume` on until the worker is at rest, then write its file."""
    profiler = cProfile.Profile()
    receive, send = pipe.receive, pipe.send

    def receiving(timeout_s: float = 0.0) -> list[Any] | None:
        message = receive(timeout_s)
        if message is not None and message[0] == "resume":
            profiler.enable()
        return message

    def sending(kind: str, *values: Any) -> None:
        if kind == "rest":
            profiler.disable()
            if profiler.getstats():
                profiler.dump_stats(path)
        send(kind, *values)

    replace: dict[str, Callable[..., Any]] = {"receive": receiving, "send": sending}
    for name, function in replace.items():
        setattr(pipe, name, function)
