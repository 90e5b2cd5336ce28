"""What a pool is told: resolved settings only, nothing left to derive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grove.common.words import plural
from grove.inference_server import ServerSettings
from grove.inference_server.batching.policy import Policy, PolicyKind
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.records.log import FSYNC_EVERY_S


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Workers and games a worker, for one kind of pool."""

    workers: int
    games: int
    groups: int = 2
    """Groups a worker's games are split into."""

    def __str__(self) -> str:
        return f"{plural(self.workers, 'workers')} x {plural(self.games, 'games')} in {plural(self.groups, 'groups')}"


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """Everything a pool needs to know; resolved settings only."""

    game_spec: str
    run_seed: int
    games_folder: Path
    search: SearchSettings
    network: NetworkSettings
    server: ServerSettings
    evaluator: str
    pool: str
    thread_sizes: Sizes
    process_sizes: Sizes
    endpoint: str = ""
    """A server that runs elsewhere; empty = start one where the evaluator needs it."""
    keys: str = ""
    """Folder of the keys with which that server lets us in; empty = it asks for none."""
    direct_compile: Literal["eager", "compiled", "cpp_wrapper"] = "eager"
    metrics_port: int = 0
    """Port of the server's /metrics; 0 = none."""
    fsync_every_s: float | None = FSYNC_EVERY_S
    """Seconds between syncs of a worker's games to the disk; 0 = every game, None = never."""
    models: str = ""
    """Folder whose newest model file the server serves; empty = none is watched."""
    stagger: bool = False
    """Begin the first games at random plies, for measurements; see workers/selfplay/stagger.py."""
    policy: PolicyKind = Policy
    """Rule by which the server sends batches off; it travels to the server's process by its name."""

    @property
    def threads_possible(self) -> bool:
        """Whether workers may come out as search threads of the server's process."""
        return self.pool != "process" and not self.endpoint and self.evaluator not in ("local", "direct")

    @property
    def has_server(self) -> bool:
        """Whether there is a process beside the workers': that of the server, of search threads, or of both."""
        return self.threads_possible or (self.evaluator == "server" and not self.endpoint)
