"""What is known of a run at a moment, and what follows from it: how long it still takes and what holds it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from grove.common.numbers import percent

_BUSY = 0.9
"""Share from which lanes or cores count as full."""
_MOSTLY = 0.5
"""Share of the batches from which their reason is taken for the usual one."""
_OTHERS = 0.25
"""Share of the cores that other programs take, from which they are worth a word."""


class Snapshot(TypedDict, total=False):
    """State of a run. Every key may be absent; what was given last stays. Rates are over the last interval."""

    game: str
    """Canonical game spec."""
    folder: str
    """The run folder."""
    device: str
    """"cpu", "cuda:0", ..."""
    device_reason: str
    """Why that device, e.g. "no GPU found"."""
    dtype: str
    """"fp32" or "bf16"."""
    dtype_reason: str
    """Why that dtype, e.g. "probe: 2.1 times as fast as fp32"."""
    network: str
    """Spec of the network, or the path of its model file."""
    network_reason: str
    """Why that network."""
    pool: str
    """"thread" or "process"."""
    pool_reason: str
    """Why that pool."""
    unit: str
    """What a finished game counts as: "games", "rounds", "matches"."""
    games: int
    """Finished games, those of earlier starts included."""
    games_per_minute: float
    """Beside it the same in the game's other units, e.g. `rounds_per_minute` (workers/pool/figures.py)."""
    evaluations_per_second: float
    """Real rows computed by the network."""
    simulations_per_second: float
    """Descents."""
    mean_batch_rows: float
    """Real rows per batch."""
    fill: float
    """Rows / bucket rows, 0..1."""
    dispatch_reasons: Mapping[str, int]
    """Reason -> batches that left for it."""
    cache_hit_rate: float | None
    """0..1, or None with the cache off."""
    queue_ms: float
    """Median milliseconds that a request waited for its lane."""
    compute_ms: float
    """Median milliseconds that a batch computed."""
    lane_idle: Sequence[float]
    """Idle share of each lane, 0..1."""
    cores: int
    """Cores that the run may use."""
    cpu_cores: Mapping[str, float | None]
    """Cores taken by each group of processes."""
    machine_cores: float | None
    """Cores of the whole machine that are busy, for other programs too."""
    memory_mb: Mapping[str, float | None]
    """Resident memory of each group of processes."""
    gpus: Sequence[Mapping[str, float | None]] | None
    """`use`, 0..1, and more of each GPU (common/usage.py); None without one."""
    workers_alive: int
    workers_restarted: int
    """Since the start."""
    server_restarted: int
    """Times that the server was started again, since the start."""
    games_per_worker: int
    """Games that a worker has in progress at once."""
    state: str
    """What is going on when it is not playing: "starting", "compiling", "finishing", ..."""


def eta_seconds(state: Snapshot, total: int) -> float | None:
    """Return the seconds left at the present rate, or None while no game has been finished."""
    left = total - state.get("games", 0)
    rate = state.get("games_per_minute", 0.0)
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
    return "" if _running_out(state, total) else f"neither is full ({said}): try {_remedy(state)}"


def over_groups(groups: Mapping[str, float | None] | None) -> float | None:
    """Return what all groups take together, None when none is known."""
    known = [value for value in (groups or {}).values() if value is not None]
    return sum(known) if known else None


def _running_out(state: Snapshot, total: int) -> bool:
    """Return whether fewer games are left than the workers could have in progress."""
    return total - state.get("games", 0) < state.get("workers_alive", 0) * state.get("games_per_worker", 0)


def _remedy(state: Snapshot) -> str:
    """Return what fills lanes and cores, by why the batches left."""
    reasons = state.get("dispatch_reasons", {})
    if reasons.get("all_blocked", 0) >= _MOSTLY * max(sum(reasons.values()), 1):
        return "more --games-per-worker, batches leave small because all workers wait"
    if state.get("pool") == "thread" and state.get("workers_alive", 0) > 1:
        # The interpreter's lock, which no figure shows, may be in the way of more.
        return "--pool process, search threads may wait for each other's interpreter time"
    return "more --workers"
