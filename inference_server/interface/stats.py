"""Counters of the server: plain numbers that only grow, so that two snapshots give the figures of an interval.

A snapshot is a plain dictionary (msgpack and JSON can carry it). `difference(later, earlier)` subtracts every counter,
`summary(snapshot)` derives the figures people read from a snapshot or from a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TIME_SLOTS = 128
"""Bins of a time histogram: four per doubling of microseconds, enough for an hour and a quarter."""
SIZE_SLOTS = 18
"""Bins of the batch-size histogram: bin k counts batches of 2**(k-1)+1 .. 2**k rows, bin 0 single rows."""
GAUGES = frozenset({"clients", "live_clients", "waiting_rows", "largest_batch", "lane_count", "epoch"})
"""Keys of a snapshot that are states, not counters: a difference keeps the later value."""


def time_bin(microseconds: int) -> int:
    """Return the histogram bin of a duration; a bin spans a quarter of a doubling, so at most 25 %."""
    if microseconds < 4:
        return max(microseconds, 0)
    octave = microseconds.bit_length()
    return min(4 * (octave - 2) + ((microseconds >> (octave - 3)) & 3), TIME_SLOTS - 1)


def bin_microseconds(number: int) -> float:
    """Return the middle of a time bin in microseconds, the inverse of `time_bin`."""
    if number < 4:
        return float(number)
    low = (4 + number % 4) << (number // 4 - 1)
    return low + (1 << (number // 4 - 1)) / 2


def percentile(counts: Sequence[int], fraction: float) -> float:
    """Return the `fraction` quantile in microseconds of a time histogram, 0.0 when it is empty."""
    left = fraction * sum(counts)
    for number, count in enumerate(counts):
        left -= count
        if count and left <= 0:
            return bin_microseconds(number)
    return 0.0


class LaneStats:
    """What one lane did; written by its thread and, for rows, under the batcher's lock."""

    __slots__ = ("batches", "busy_ns", "idle_ns", "rows")

    def __init__(self) -> None:
        self.batches = 0
        self.rows = 0
        self.busy_ns = 0
        self.idle_ns = 0

    def snapshot(self) -> dict[str, float]:
        """As plain numbers, times in seconds."""
        return {
            "batches": self.batches,
            "rows": self.rows,
            "busy_s": self.busy_ns / 1e9,
            "idle_s": self.idle_ns / 1e9,
        }


class Stats:
    """The counters of one server. Not thread-safe: the batcher writes and reads them under its lock."""

    def __init__(self, lanes: int) -> None:
        self.requests = 0
        self.rows = 0
        self.bucket_rows = 0
        self.batches = 0
        self.failed_rows = 0
        self.resends = 0
        self.sizes = [0] * SIZE_SLOTS
        self.queue_us = [0] * TIME_SLOTS
        self.compute_us = [0] * TIME_SLOTS
        self.errors: dict[str, int] = {}
        self.lanes = [LaneStats() for _ in range(lanes)]

    def batch_done(self, lane: int, rows: int, bucket: int, compute_us: int) -> None:
        """Count one computed batch."""
        self.batches += 1
        self.rows += rows
        self.bucket_rows += bucket
        self.sizes[min((rows - 1).bit_length(), SIZE_SLOTS - 1)] += 1
        self.compute_us[time_bin(compute_us)] += 1
        mine = self.lanes[lane]
        mine.batches += 1
        mine.rows += rows

    def request_done(self, queue_us: int) -> None:
        """Count one answered request."""
        self.requests += 1
        self.queue_us[time_bin(queue_us)] += 1

    def error(self, cause: str, times: int = 1) -> None:
        """Count one fault by its cause, a short word from a bounded set."""
        self.errors[cause] = self.errors.get(cause, 0) + times

    def snapshot(self) -> dict[str, Any]:
        """Return all counters as new plain values."""
        return {
            "requests": self.requests,
            "rows": self.rows,
            "bucket_rows": self.bucket_rows,
            "batches": self.batches,
            "failed_rows": self.failed_rows,
            "resends": self.resends,
            "batch_sizes": list(self.sizes),
            "queue_us": list(self.queue_us),
            "compute_us": list(self.compute_us),
            "errors": dict(self.errors),
            "lanes": [lane.snapshot() for lane in self.lanes],
            "lane_count": len(self.lanes),
        }


def difference(later: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Return the counters of the interval between two snapshots; gauges and texts keep the later value."""
    return {key: value if key in GAUGES else _minus(value, earlier.get(key)) for key, value in later.items()}


def _minus(later: Any, earlier: Any) -> Any:
    if earlier is None or isinstance(later, str | bool):
        return later
    if isinstance(later, dict):
        return {key: _minus(value, earlier.get(key)) for key, value in later.items()}
    if isinstance(later, list):
        return [_minus(a, b) for a, b in zip(later, earlier, strict=True)]
    return later - earlier


def summary(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Return the figures people read: mean batch rows, fill, percentiles in microseconds, idle share of each lane."""
    figures: dict[str, Any] = {
        "mean_batch_rows": snapshot["rows"] / max(snapshot["batches"], 1),
        "fill": snapshot["rows"] / max(snapshot["bucket_rows"], 1),
    }
    for name in ("queue_us", "compute_us"):
        for percent in (50, 90, 99):
            figures[f"{name}_p{percent}"] = percentile(snapshot[name], percent / 100)
    figures["idle_shares"] = [lane["idle_s"] / max(lane["idle_s"] + lane["busy_s"], 1e-9) for lane in snapshot["lanes"]]
    return figures
