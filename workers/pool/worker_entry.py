"""The main function of a worker process."""

from __future__ import annotations

import gc
import math
import os
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Literal

from grove.common.errors import StorageError
from grove.game import load_game
from grove.game.contract import Game
from grove.inference_server import Patience, ZmqClient
from grove.inference_server.channels.keys import ClientKeys
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.workers.pool.children import Held
from grove.workers.pool.parent_watch import end_with_supervisor, leave_signals, supervisor_is_gone, tidy_up
from grove.workers.selfplay.control_pipe import ControlPipe, error_line
from grove.workers.selfplay.evaluators import (
    Evaluator,
    HashEvaluator,
    NetworkEvaluator,
    RolloutEvaluator,
    ServedEvaluator,
    row_spec,
)
from grove.workers.selfplay.worker import Worker, WorkerJob


@dataclass(frozen=True, kw_only=True)
class EvaluatorJob:
    """Which evaluator a worker shall use; plain values."""

    kind: str
    endpoint: str = ""
    """Where the server listens, for kind `server`."""
    keys: str = ""
    """Folder of the keys with which it lets us in; empty = it asks for none."""
    private: bool = False
    """Whether that server is the pool's own: it is restarted, in a folder that is gone with the supervisor."""
    between_games: bool = False
    """Whether the server's new models take over between games."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    """The worker's own network, for kinds `local` and `direct`."""
    direct_compile: Literal["eager", "compiled", "cpp_wrapper"] = "eager"
    """How a `direct` network runs: eager, compiled or cpp_wrapper; `bench compare` takes the fastest."""


def main(job: WorkerJob, evaluator_job: EvaluatorJob, connection: Connection, _lock: Held | None) -> None:
    """Play until the supervisor says stop or is gone. Faults go to the supervisor as one line."""
    leave_signals()
    private = evaluator_job.endpoint if evaluator_job.private else ""
    end_with_supervisor(private)
    pipe = ControlPipe(connection)
    try:
        game = load_game(job.game_spec)
        evaluator = make_evaluator(game, job, evaluator_job)
        gc.freeze()  # what is loaded now stays: the collector need not look through it again and again
        Worker(job, game, evaluator, pipe).run()
    except StorageError as error:
        pipe.send("unwritable", error_line(error))
    except Exception as error:
        pipe.send("failed", error_line(error))
    if supervisor_is_gone():
        tidy_up(private)


def client_name(worker: int, process: int) -> str:
    """Return the name that worker process `process` has at the server."""
    return f"worker-{worker}-{process}"


def requests_at_once(groups: int, between_games: bool) -> int:
    """Return how many requests a worker may have outstanding: a group's games may be of two models at a time."""
    return 2 * groups if between_games else groups


def make_evaluator(game: Game, job: WorkerJob, wanted: EvaluatorJob) -> Evaluator:
    """Return the evaluator; torch is imported only for a network of the worker's own."""
    spec = row_spec(game)
    if wanted.kind == "test":
        return HashEvaluator(spec)
    if wanted.kind == "rollout":
        return RolloutEvaluator(game, seed=job.run_seed)
    if wanted.kind == "server":
        most = -(-job.games // job.groups) * job.search.rows
        # How long to wait for a server that is restarted is for the supervisor to say.
        patience = Patience(give_up_after_s=math.inf) if wanted.private else Patience()
        client = ZmqClient(
            wanted.endpoint,
            spec,
            name=client_name(job.worker, os.getpid()),
            window=requests_at_once(job.groups, wanted.between_games),
            max_rows=most,
            patience=patience,
            keys=ClientKeys.read(wanted.keys) if wanted.keys else None,
        )
        return ServedEvaluator(client, game.num_actions)
    from grove.inference_server.backends.direct import DirectNetwork

    batch = wanted.kind == "local"
    return NetworkEvaluator(spec, DirectNetwork(spec, wanted.network, wanted.direct_compile), batch)
