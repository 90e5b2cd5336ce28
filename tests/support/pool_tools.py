"""A small pool in this very process, and what its games' folder holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.records.record import read_folder
from grove.workers.pool.plan import PoolPlan, Sizes
from grove.workers.pool.pool import Pool

LIMIT_S = 200.0
NETWORK = NetworkSettings(network="mlp:layers=1,width=16", device="cpu", dtype="fp32", compile="off")


def plan(folder: Path, pool: str = "process", **changes: Any) -> PoolPlan:
    settings: dict[str, Any] = {
        "game_spec": "hex:size=4",
        "run_seed": 1,
        "games_folder": folder,
        "search": SearchSettings(simulations=16),
        "network": NETWORK,
        "server": ServerSettings(max_batch=32),
        "evaluator": "test",
        "pool": pool,
        "sizes": Sizes(workers=2, games=4),
    }
    return PoolPlan(**settings | changes)


def pump_until(pool: Pool, condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"it never came to that; {pool.problems}"
        pool.pump(0.05)


def indices(folder: Path) -> list[int]:
    return sorted(record.index for record in read_folder(folder))


def games(folder: Path) -> dict[int, list[int]]:
    """Return the moves of each game by index."""
    return {record.index: record.moves for record in read_folder(folder)}
