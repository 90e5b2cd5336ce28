"""Settings of the worker pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grove.common.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """How many workers play how many games at once, where, and who evaluates their rows."""

    workers: int = 0
    """Search workers; 0 = one thread (half the cores beside a GPU), or one process per core (two at least)."""
    games_per_worker: int = 0
    """Games each worker plays at once, each with a tree per world; 0 = as many as make a full batch for every lane and
    two more in all, with at least 64 trees and 16 games a worker."""
    groups: int = 0
    """Groups a worker's games are split into: while one group's rows are away the next one searches. 0 = 4, or 1 with
    many more workers than cores, whose rows hide each other's latency."""
    pool: Literal["auto", "thread", "process"] = "auto"
    """`thread`: search threads in the server's process (compiled games, one machine). `process`: worker processes over
    ZeroMQ. `auto` takes threads for compiled games on at most 8 cores."""
    evaluator: Literal["server", "local", "direct", "rollout", "test"] = "server"
    """Who evaluates: the inference `server`; `local` or `direct`: a network in every worker, by batch or one position a
    call; `rollout`: random games; `test`: a hash of the row."""

    def __post_init__(self) -> None:
        for name, low, high in (("workers", 0, 1024), ("games_per_worker", 0, 65536), ("groups", 0, 64)):
            value = getattr(self, name)
            if not low <= value <= high:
                flag = name.replace("_", "-")
                raise SettingError.of(flag, value, f"it must lie in {low}..{high}", f"choose --{flag} in that range")
        if self.pool == "thread" and self.evaluator in ("local", "direct"):
            limit = f"the {self.evaluator} evaluator has a network in every worker process"
            raise SettingError.of("pool", self.pool, limit, "use --pool process")
