"""What the tests of the sweep share: what is asked for, points, and visits as they might have been."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from grove.bench.core.gpu_watch import NO_GPU
from grove.bench.core.modes import Asked
from grove.bench.core.slices import Slice
from grove.bench.sweep.points import Point
from grove.bench.sweep.visits import Visit
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.pool.settings import PoolSettings


def asked(out: Path = Path("out"), **changes: Any) -> Asked:
    base = Asked(
        game_spec="connect_four",
        modes=("server-process",),
        seconds=3.0,
        out=out,
        seed=0,
        search=SearchSettings(simulations=8),
        pool=PoolSettings(workers=2, games_per_worker=32),
        network=NetworkSettings(network="mlp:layers=1,width=8", device="cpu"),
        server=ServerSettings(max_batch=64, lanes=1),
        probe_limit=0.1,
    )
    return replace(base, **changes)


POINTS = [Point("server-process", workers, 32, 64, 5000, 1, "workers") for workers in (1, 2, 4)]


def a_visit(point: Point, number: int = 0, speed: float = 1.0, rate: float = 100.0, games: int = 10) -> Visit:
    server = {
        **{"requests": 4, "rows": 100, "bucket_rows": 128, "batches": 2, "queue_us": [4], "compute_us": [4]},
        **{"batch_sizes": [0, 2], "reasons": {"full": 1, "delay": 1}, "lanes": [{"idle_s": 1.0, "busy_s": 1.0}]},
    }
    workers = {"evaluations": rate, "simulations": rate, "decisions": 50, "games": games}
    pool = {"workers": point.workers, "games": 32, "groups": 4, "lanes": 1, "device": "cpu", "dtype": "fp32"}
    pool |= {
        "evaluations_by_worker": [30.0, 10.0],
        "mean_visit_entropy": 1.0,
        "mean_game_moves": 9.0,
        "mean_game_examples": 7.5,
    }
    pool |= {"played": [200.0, 100.0, games, 10.0 * games, 110.0 * games]}
    pool |= {"worker_peak_rss_mb": 80.0, "server_peak_rss_mb": None, "workers_restarted": 0}
    return Visit(
        point=point,
        number=number,
        time="now",
        start_s=1.0,
        slices=[asdict(Slice(1.0, workers, server, 1.5))] * 2,
        peak=[(1000.0, 1e-6), (1000.0, 1e-6)],
        probes=[(speed, 2 * speed, 2)] * 2,
        pool=pool,
        others_cpu=0.5,
        gpus=NO_GPU,
    )


def failed_visit(point: Point, number: int = 0) -> Visit:
    return Visit(point=point, number=number, time="now", failure="no memory; use fewer workers")
