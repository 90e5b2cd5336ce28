"""What one worker is told: plain values, so that they can be sent to a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grove.records.log import FSYNC_EVERY_S

if TYPE_CHECKING:
    from grove.mcts import SearchSettings  # brings the kernels, which a server's process does without


@dataclass(frozen=True, kw_only=True)
class WorkerJob:
    """What one worker shall do."""

    worker: int
    """Number of the worker, from 0."""
    game_spec: str
    """Spec as the user gave it."""
    run_seed: int
    search: SearchSettings
    games: int
    """Games in progress at most, over all groups."""
    groups: int
    log_path: str
    """File that finished games are appended to."""
    fsync_every_s: float | None = FSYNC_EVERY_S
    """Seconds between syncs of the log to the disk; 0 = every game, None = never."""
    stagger: bool = False
    """Begin the first games at random plies; see workers/selfplay/stagger.py."""
