"""What a pool, its server's process and its workers are told: resolved settings only, nothing left to derive."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grove.common.words import plural
from grove.inference_server import RowSpec, ServerSettings
from grove.inference_server.batching.policy import Policy, PolicyKind
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.records.log import FSYNC_EVERY_S
from grove.workers.selfplay.job import WorkerJob

if TYPE_CHECKING:
    from grove.mcts import SearchSettings  # brings the kernels, which the server's process does without

Kind = Literal["thread", "process"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Workers and games a worker."""

    workers: int
    games: int
    groups: int = 2
    """Groups a worker's games are split into."""

    def __str__(self) -> str:
        return f"{plural(self.workers, 'workers')} x {plural(self.games, 'games')} in {plural(self.groups, 'groups')}"


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
    network: NetworkSettings = field(default_factory=NetworkSettings)
    """The worker's own network, for kinds `local` and `direct`."""
    direct_compile: Literal["eager", "compiled", "cpp_wrapper"] = "eager"
    """How a `direct` network runs: eager, compiled or cpp_wrapper; `bench compare` takes the fastest."""


@dataclass(frozen=True, kw_only=True)
class ServerJob:
    """What the server's process shall do; plain values."""

    game_spec: str
    row_spec: RowSpec
    evaluator: str
    """`server`, or an evaluator without a network whose search threads live here."""
    network: NetworkSettings
    server: ServerSettings
    threads: tuple[WorkerJob, ...] = ()
    """Jobs of the search threads; none for a pool of worker processes."""
    endpoint: str = ""
    """Where to listen for worker processes: in a folder that the supervisor made and owns, or on a free port."""
    metrics_port: int = 0
    """Port of /metrics; 0 = none."""
    keys: str = ""
    """Folder of the server's keys; empty = whoever reaches the endpoint is let in."""
    models: str = ""
    """Folder whose newest model file is served; empty = none is watched."""
    policy: PolicyKind = Policy
    """Rule by which the server sends batches off."""


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
    pool: Kind
    pool_reason: str = "as asked for"
    """Why that kind, for people."""
    sizes: Sizes
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
    def has_server(self) -> bool:
        """Whether there is a process beside the workers': that of the server, of search threads, or of both."""
        return self.pool == "thread" or (self.evaluator == "server" and not self.endpoint)

    def log_path(self, worker: int) -> Path:
        """Return the file that `worker` appends its games to."""
        return self.games_folder / f"worker-{worker:03d}.jsonl"

    def worker_job(self, worker: int) -> WorkerJob:
        """Return what worker number `worker` shall do."""
        return WorkerJob(
            worker=worker,
            game_spec=self.game_spec,
            run_seed=self.run_seed,
            search=self.search,
            games=self.sizes.games,
            groups=self.sizes.groups,
            log_path=str(self.log_path(worker)),
            fsync_every_s=self.fsync_every_s,
            stagger=self.stagger,
        )

    def evaluator_job(self, endpoint: str) -> EvaluatorJob:
        """Return which evaluator a worker process uses; `endpoint` is that of the pool's own server."""
        return EvaluatorJob(
            kind=self.evaluator,
            endpoint=self.endpoint or endpoint,
            private=not self.endpoint,
            keys=self.keys,
            network=self.network,
            direct_compile=self.direct_compile,
        )
