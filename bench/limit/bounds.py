"""The bounds of self-play: from measured figures to the limits that each part alone, and all together, would set.

Pure arithmetic. The bounds, all in evaluations/s:

network   the network alone, full batches, best lanes
search    one search thread with the test evaluator, times the cores
wire      the ZeroMQ channel without a network behind it; no bound of a thread pool, which does not use it
writer    games recorded by one writer, times the writers
cores     cores / (processor time of network, search, wire and record per evaluation): all of them on the same cores,
          without the cores that other programs used meanwhile
workers   workers / (time of search and record per evaluation): a worker does one thing after another
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Part = Literal["network", "search", "wire", "writer"]

_WAITING = 0.5
"""Share of their time from which workers count as mostly waiting for answers."""
_ASLEEP = 0.5
"""Processors of a busy search thread below which its game waits for something else than a core."""


@dataclass(frozen=True, kw_only=True)
class LimitFigures:
    """What one run of `grove bench limit` measured. Rates are evaluations/s, costs processor seconds an evaluation."""

    cores: int
    """Usable cores."""
    workers: int
    games_per_worker: int
    groups: int
    lanes: int
    """Lanes of the server under the whole."""
    max_batch: int
    """Rows of the server's largest batch."""
    threads: bool
    """Whether search threads share the server's process; worker processes over ZeroMQ otherwise."""
    compiled: bool
    """Whether the game's rules are compiled; the search threads of one in Python take turns at the interpreter."""
    network_on_cores: bool
    """Whether the network computes on the same cores as the search; False on a GPU."""
    network_rate: float
    """The network alone, full batches, best lanes and bucket; on cores as fast as its processor time allows, so that
    other programs do not lower it."""
    network_cpu: float
    ladder: Mapping[int, float]
    """Rows of a batch -> rate of the network alone in batches of that size."""
    tried: tuple[tuple[int, int, float], ...]
    """(lanes, rows of the largest batch, rate) of every candidate for the best."""
    search_rate: float
    """One search thread with the test evaluator, whose own time is left out."""
    search_cpu: float
    wire_rate: float
    wire_cpu: float
    wire_rows: int
    """Rows of each message on the wire."""
    writer_rate: float | None
    """One writer: games/s times evaluations a game. None when no game ended to be written."""
    writer_cpu: float
    whole_rate: float
    whole_cpu: float
    idle_cores: float | None
    """Cores that nobody used while the whole played, at most `cores`; None where a CPU quota hides it."""
    waiting: float
    """Share of their time that workers waited for answers."""
    lane_idle: float
    """Share of their time that lanes had no batch."""
    batch_rows: float
    """Mean rows of a batch."""
    fill: float
    """Rows by rows of the padded batches."""

    @property
    def spare_cores(self) -> float:
        """Cores that nobody used; where that is not known, those that the whole did not use."""
        if self.idle_cores is not None:
            return self.idle_cores
        return max(self.cores - self.whole_rate * self.whole_cpu, 0.0)

    @property
    def available_cores(self) -> float:
        """Cores that other programs left to the whole: what it used and what was spare."""
        return min(float(self.cores), self.whole_rate * self.whole_cpu + self.spare_cores)


@dataclass(frozen=True)
class Bound:
    """One limit of the whole."""

    name: str
    """As in the head of this module."""
    label: str
    rate: float
    """Evaluations/s."""
    parts: Mapping[Part, float]
    """Seconds of each part per evaluation: one part, or those that share the bound."""
    used: bool = True
    """Whether the whole is under this bound at all."""


def bounds(m: LimitFigures) -> list[Bound]:
    """Return all bounds, the parts alone first."""
    alone = [
        _alone("network", m.network_rate),
        _alone("search", m.search_rate * _searchers(m)),
        _alone("wire", m.wire_rate, not m.threads),
    ]
    if m.writer_rate is not None:
        alone.append(_alone("writer", m.writer_rate * _writers(m)))
    return [*alone, _cores(m), _workers(m)]


def _alone(part: Part, rate: float, used: bool = True) -> Bound:
    return Bound(part, f"the {part} alone", rate, {part: 1 / rate}, used)


def lowest_bound(m: LimitFigures) -> Bound:
    """Return the lowest bound that the whole is under."""
    return min((bound for bound in bounds(m) if bound.used), key=lambda bound: bound.rate)


def _searchers(m: LimitFigures) -> int:
    """Return how many threads may search at once."""
    if m.threads and not m.compiled:
        return 1
    sleeps = m.search_cpu * m.search_rate < _ASLEEP  # a game that waits for something else than a core
    return max(m.cores, m.workers) if sleeps else m.cores


def _writers(m: LimitFigures) -> int:
    return 1 if m.threads else min(m.workers, m.cores)


def processor_costs(m: LimitFigures) -> dict[Part, float]:
    """Return the processor seconds that each part takes of the cores per evaluation."""
    return {
        "network": m.network_cpu if m.network_on_cores else 0.0,
        "search": m.search_cpu,
        "wire": 0.0 if m.threads else m.wire_cpu,
        "writer": m.writer_cpu,
    }


def _cores(m: LimitFigures) -> Bound:
    costs = processor_costs(m)
    label = "both on the same cores" if m.network_on_cores else "all but the network on the cores"
    return Bound("cores", label, m.available_cores / max(sum(costs.values()), 1e-12), costs)


def _workers(m: LimitFigures) -> Bound:
    times: dict[Part, float] = {"search": 1 / m.search_rate, "writer": 1 / m.writer_rate if m.writer_rate else 0.0}
    count = 1 if m.threads and not m.compiled else m.workers
    label = f"{count} worker{'s' * (count > 1)}, search then record"
    return Bound("workers", label, count / sum(times.values()), times)


def largest_part(bound: Bound) -> Part:
    """Return which part of self-play a bound stands for: the one that takes most of it where several share it."""
    return max(bound.parts, key=lambda part: bound.parts[part])


def network_rate_at(m: LimitFigures, rows: float, fill: float = 1.0) -> float:
    """Return the network's rate in batches of `rows` rows, padded to rows / fill: batch times between those measured
    are taken to lie on a line."""
    sizes = sorted(m.ladder)
    bucket = min(max(rows / max(fill, 1e-9), sizes[0]), sizes[-1])
    above = bisect_left(sizes, bucket)
    high, low = sizes[above], sizes[max(above - 1, 0)]
    times = [low / m.ladder[low], high / m.ladder[high]]
    weight = (bucket - low) / (high - low) if high > low else 0.0
    return float(min(rows, sizes[-1]) / (times[0] + weight * (times[1] - times[0])))


def with_formed_batches(m: LimitFigures) -> LimitFigures:
    """Return the figures with a network as slow as it is in the batches that formed under the whole."""
    slower = max(network_rate_at(m, m.max_batch) / max(network_rate_at(m, m.batch_rows, m.fill), 1e-9), 1.0)
    return replace(m, network_rate=m.network_rate / slower, network_cpu=m.network_cpu * slower)


def percent(share: float) -> str:
    """Return a share as people read it: 83 %."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "<1 %"


def mostly_waiting(m: LimitFigures) -> bool:
    """Whether the workers mostly wait for answers, so that more of them or more games each would fill the batches."""
    return m.waiting >= _WAITING
