"""The main function of a worker process."""

from __future__ import annotations

import gc
import math
from multiprocessing.connection import Connection

from grove.common.errors import StorageError
from grove.game import load_game
from grove.game.contract import Game
from grove.inference_server import Client, Patience, ZmqClient
from grove.inference_server.channels.keys import ClientKeys
from grove.workers.pool.children import Held
from grove.workers.pool.parent_watch import ended_with_supervisor
from grove.workers.pool.plan import EvaluatorJob
from grove.workers.selfplay.control_pipe import ControlPipe, error_line
from grove.workers.selfplay.evaluators import (
    HashEvaluator,
    NetworkEvaluator,
    RolloutEvaluator,
    row_spec,
)
from grove.workers.selfplay.job import WorkerJob
from grove.workers.selfplay.worker import Worker


def main(job: WorkerJob, evaluator_job: EvaluatorJob, connection: Connection, _lock: Held | None) -> None:
    """Play until the supervisor says stop or is gone. Faults go to the supervisor as one line."""
    pipe = ControlPipe(connection)
    with ended_with_supervisor(evaluator_job.endpoint if evaluator_job.private else ""):
        try:
            game = load_game(job.game_spec)
            evaluator = make_evaluator(game, job, evaluator_job)
            gc.freeze()  # what is loaded now stays: the collector need not look through it again and again
            Worker(job, game, evaluator, pipe).run()
        except StorageError as error:
            pipe.send("unwritable", error_line(error))
        except Exception as error:
            pipe.send("failed", error_line(error))


def make_evaluator(game: Game, job: WorkerJob, wanted: EvaluatorJob) -> Client:
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
        return ZmqClient(
            wanted.endpoint,
            spec,
            window=job.groups,
            max_rows=most,
            patience=patience,
            keys=ClientKeys.read(wanted.keys) if wanted.keys else None,
        )
    from grove.workers.selfplay.direct import DirectNetwork

    batch = wanted.kind == "local"
    return NetworkEvaluator(spec, DirectNetwork(spec, wanted.network, wanted.direct_compile), batch)
