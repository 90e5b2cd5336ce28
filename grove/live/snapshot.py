"""What follows from the state of a run: how long it still takes and what holds it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grove.common.numbers import percent

Snapshot = Mapping[str, Any]
"""State of a run: keys of a line of metrics.jsonl (docs/reference/metrics.md) and of what a start chose (`chosen` in
run.json). Every key may be absent. `state` says what is going on when it is not playing: "starting", ..."""

_BUSY = 0.9
"""Share from which lanes or cores count as full."""
_MOSTLY = 0.5
"""Share of the batches from which their reason is taken for the usual one."""
_OTHERS = 0.25
"""Share of the cores that other programs take, from which they are worth a word."""


def eta_seconds(state: Snapshot, total: int) -> float | None:
    """Return the seconds left at the present rate, or None while no game has been finished."""
    left, rate = total - state.get("games", 0), state.get("games_per_minute", 0.0)
    if left <= 0:
        return 0.0
    return 60.0 * left / rate if rate > 0 else None


def what_binds(state: Snapshot, total: int) -> str:
    """Return in words what holds a run of `total` games back, as far as busy lanes and cores tell; empty while unknown.

    Nothing is said of the last games, too few to fill anything.
    """
    idle = state.get("lane_idle", ())
    cores, most = over_groups(state.get("cpu_cores")), state.get("cores")
    if not idle or cores is None or not most:
        return ""
    busy = 1 - sum(idle) / len(idle)
    said = f"lanes busy {percent(busy)}, cores {percent(cores / most)}"
    others = (state.get("machine_cores") or 0.0) - cores
    if others >= _OTHERS * most and cores + others >= _BUSY * most:
        return f"other programs, which take {others:.1f} of {most} cores ({said})"
    if busy >= _BUSY:
        return f"the network ({said})"
    if cores >= _BUSY * most:
        return f"the processors ({said})"
    in_progress = state.get("workers_alive", 0) * state.get("games_per_worker", 0)
    return "" if total - state.get("games", 0) < in_progress else f"neither is full ({said}): try {_remedy(state)}"


def over_groups(groups: Mapping[str, float | None] | None) -> float | None:
    """Return what all groups of processes take together, None when none is known."""
    known = [value for value in (groups or {}).values() if value is not None]
    return sum(known) if known else None


def _remedy(state: Snapshot) -> str:
    """Return what fills lanes and cores, by why the batches left."""
    reasons = state.get("dispatch_reasons", {})
    if reasons.get("all_blocked", 0) >= _MOSTLY * max(sum(reasons.values()), 1):
        return "more --games-per-worker, batches leave small because all workers wait"
    if state.get("pool") == "thread" and state.get("workers_alive", 0) > 1:
        # The interpreter's lock, which no figure shows, may be in the way of more.
        return "--pool process, search threads may wait for each other's interpreter time"
    return "more --workers"
