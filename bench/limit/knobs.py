"""The one setting to change next, and what it is expected to bring.

An expectation is the lowest bound worked out again with one figure changed, times the share of its lowest bound that
the whole reaches now. A change meant to close the gap below the bound is expected to reach the bound at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from grove.bench.limit.bounds import (
    LimitFigures,
    lowest_bound,
    mostly_waiting,
    network_rate_at,
    percent,
    processor_costs,
)

Kind = Literal["network", "search", "wire", "writer", "starved", "oversubscribed"]

_WORTH = 1.05
"""Gain from which other lanes or another max batch are worth naming."""
_MOST_GAMES = 16
"""Times more games a worker than now, at most, in one piece of advice."""
_COMPILED = 10
"""How many times as fast a compiled game is taken to search."""


@dataclass(frozen=True)
class Knob:
    """The one thing to change next."""

    name: str
    """A flag, or what else to change."""
    change: str
    """In words, with the value."""
    expected: float
    """Evaluations/s to expect after it."""
    model: str
    """Where the expectation comes from, in words."""
    turned: Mapping[str, Any] = field(default_factory=dict)
    """The settings it changes, by name, with their new values, which `grove tune` tries; empty where it is none."""


def choose_knob(m: LimitFigures, kind: Kind) -> Knob:
    """Return the setting for a whole that `kind` binds."""
    return {
        "network": _network,
        "search": _search,
        "wire": _wire,
        "writer": _writer,
        "starved": _starved,
        "oversubscribed": _oversubscribed,
    }[kind](m)


def _predict(m: LimitFigures, **changes: Any) -> float:
    """Return evaluations/s with some figures changed, the whole reaching the same share of its lowest bound."""
    return lowest_bound(replace(m, **changes)).rate * m.whole_rate / lowest_bound(m).rate


def _kept(m: LimitFigures) -> str:
    return f"the whole keeps its {percent(m.whole_rate / lowest_bound(m).rate)} of the lowest bound"


def _network(m: LimitFigures) -> Knob:
    lanes, rows, slower, costlier = _better_shape(m)
    if slower > _WORTH:
        turned = {"lanes": lanes} if lanes != m.lanes else {}
        turned |= {"max_batch": rows} if rows != m.max_batch else {}
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in turned.items())
        now = lowest_bound(replace(m, network_rate=m.network_rate / slower, network_cpu=m.network_cpu * costlier)).rate
        then = m.whole_rate * max(lowest_bound(m).rate / now, 1.0)
        return Knob("lanes and max batch", flags, then,
                    f"the network alone is {slower:.2f} times as fast with it, the rest as it is", turned)  # fmt: skip
    then = _predict(m, network_rate=2 * m.network_rate, network_cpu=m.network_cpu / 2)
    what = "a smaller network (--network)" + (" or a GPU (--device cuda)" if m.network_on_cores else "")
    return Knob("--network", f"{what}: half the cost an evaluation", then,
                f"the network twice as fast, the rest as it is, {_kept(m)}")  # fmt: skip


def _better_shape(m: LimitFigures) -> tuple[int, int, float, float]:
    """Return the best lanes and max batch of the sweep, and how many times as slow, and as costly in processor time an
    evaluation, the present ones are.

    On cores the whole is a second witness: it cannot lose more than the processor time that it spends beyond the other
    parts' and the best network's. The sweep is short, and a busy machine misleads it.
    """
    lanes, rows, best = max(m.tried, key=lambda item: item[2])
    mine = next((rate for *shape, rate in m.tried if shape == [m.lanes, m.max_batch]), best)
    slower = best / mine
    if not m.network_on_cores:
        return lanes, rows, slower, 1.0
    share = lanes / min(m.lanes, m.cores)
    rest = sum(processor_costs(m).values()) - m.network_cpu
    costlier = min(slower / share, max(m.whole_cpu - rest, 0.0) / m.network_cpu)
    return lanes, rows, costlier * share, costlier


def _search(m: LimitFigures) -> Knob:
    if not m.compiled:
        faster = {"search_rate": _COMPILED * m.search_rate, "search_cpu": m.search_cpu / _COMPILED}
        return Knob("a compiled game", "write the game's rules as kernels (docs/tutorials/own-compiled-game.md)",
                    _predict(m, compiled=True, **faster),
                    f"a search {_COMPILED} times as fast, the rest as it is, {_kept(m)}")  # fmt: skip
    if m.workers < m.cores and lowest_bound(m).name == "workers":
        return Knob("--workers", f"--workers {m.cores} (now {m.workers})", _predict(m, workers=m.cores),
                    f"a worker on every core, {_kept(m)}", {"workers": m.cores})  # fmt: skip
    return Knob("cores", f"more cores, here or on a second machine (now {m.cores}): twice as many",
                _predict(m, cores=2 * m.cores, workers=2 * m.workers, idle_cores=m.spare_cores + m.cores),
                f"twice the cores and workers, the rest as it is, {_kept(m)}")  # fmt: skip


def _wire(m: LimitFigures) -> Knob:
    if m.compiled:
        # Far below its bound the wire is not all that a round trip waits for, and threads wait for the rest as well.
        beyond = 1 / m.whole_rate - 1 / lowest_bound(m).rate
        then = 1 / (beyond + 1 / lowest_bound(replace(m, threads=True)).rate)
        return Knob("--pool", "--pool thread: search threads beside the lanes, no wire", max(then, m.whole_rate),
                    "the bounds without the wire; what an evaluation takes beyond its lowest bound stays",
                    {"pool": "thread"})  # fmt: skip
    change = f"--games-per-worker {2 * m.games_per_worker} (now {m.games_per_worker}): twice the rows a message"
    return Knob("--games-per-worker", change, _predict(m, wire_rate=2 * m.wire_rate, wire_cpu=m.wire_cpu / 2),
                f"as many messages a second, each with {2 * m.wire_rows} rows, {_kept(m)}",
                {"games_per_worker": 2 * m.games_per_worker})  # fmt: skip


def _writer(m: LimitFigures) -> Knob:
    return Knob("--out", "--out on a faster disk", _predict(m, writer_rate=None),
                f"no time for waiting on the disk, {_kept(m)}")  # fmt: skip


def _starved(m: LimitFigures) -> Knob:
    limit = lowest_bound(m).rate
    if not mostly_waiting(m):
        return Knob("--workers", f"--workers {2 * m.workers} (now {m.workers})", min(2 * m.whole_rate, limit),
                    "twice the workers search twice as much, up to the lowest bound",
                    {"workers": 2 * m.workers})  # fmt: skip
    wanted = max(m.max_batch / max(m.batch_rows, 1.0), 2.0)
    times = min(1 << math.ceil(math.log2(wanted)), _MOST_GAMES)
    rows = min(m.batch_rows * times, m.max_batch)
    expected = min(max(_with_more_games(m, times, rows), m.whole_rate), limit)
    return Knob("--games-per-worker", f"--games-per-worker {times * m.games_per_worker} (now {m.games_per_worker})",
                expected, f"{times} times the rows a step in batches of {rows:.0f} rows, a row's search as now, up to "
                "the lowest bound", {"games_per_worker": times * m.games_per_worker})  # fmt: skip


def _with_more_games(m: LimitFigures, times: int, rows: float) -> float:
    """Return evaluations/s with `times` the rows in flight and `rows` in a batch.

    A round trip, from a row's request to its tree's next one, then takes as much more search and a larger batch; what
    else it waits for stays. It takes as long as rows in flight by their rate.
    """
    round_trip = m.workers * m.groups * m.wire_rows / m.whole_rate
    slower = rows / network_rate_at(m, rows) - m.batch_rows / network_rate_at(m, m.batch_rows, m.fill)
    return times * m.whole_rate / (1 + (times - 1) * (1 - m.waiting) + m.lanes * max(slower, 0.0) / round_trip)


def _oversubscribed(m: LimitFigures) -> Knob:
    games = -(-m.workers * m.games_per_worker // m.cores)
    return Knob("--workers", f"--workers {m.cores} (now {m.workers}) with --games-per-worker {games}",
                lowest_bound(m).rate, "an evaluation takes what its parts need: the lowest bound, at most",
                {"workers": m.cores, "games_per_worker": games})  # fmt: skip
