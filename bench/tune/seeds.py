"""The settings that `grove tune` tries first: the default, and what the limit's measurements predict.

Both are those of `grove bench limit`: the setting that it would change next for the default, and the grid of the
network alone. A max batch beyond which the network gains nothing only keeps more games in flight, whose trees drive
each other and the network out of the near caches; and what a game's next decision asks was asked by its last one, so a
cache of a few decisions saves the network up to half its work. Which of it holds here, trials say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from grove.bench.limit.verdict import Verdict
from grove.bench.tune.space import Space, advised
from grove.common.machine import usable_cores

NEARLY = 0.97
"""Share of the best rate from which a smaller batch counts as good as the best."""
CACHED = 8
"""Decisions of each game in flight that the first caches hold."""
_SMALLEST = "the smallest batches in which the network alone is nearly as fast"


class Seed(NamedTuple):
    """Settings to try before anything is searched."""

    params: dict[str, Any]
    why: str
    expected: float | None = None
    """How many times the default's rate the limit predicts; None where it does not say."""


def make_seeds(space: Space, found: Mapping[str, Any], limit: Verdict | None = None) -> list[Seed]:
    """Return the settings to begin with, each once.

    `found` is what the network alone gave (`Peak.found`), `limit` what binds the default, where that was measured.
    """
    best = _shape(space, found["lanes"], found["bucket"])
    small = _shape(space, found["lanes"], smallest_good_batch(found))
    other = "process" if space.default.pool == "thread" else "thread"
    workers = usable_cores() if other == "process" else 1
    wanted = [
        Seed({}, "the default"),
        *_advice(space, limit),
        Seed({"cache": CACHED}, "the default with a cache"),
        Seed(best, "the lanes and batches in which the network alone is fastest"),
        Seed(best | {"cache": CACHED}, "the same with a cache"),
        Seed(small | {"cache": CACHED}, f"{_SMALLEST}, with a cache"),
        Seed({"pool": other, "workers": workers, "cache": CACHED}, f"the default with the {other} pool and a cache"),
        Seed(small, _SMALLEST),
    ]
    seeds: dict[tuple[Any, ...], Seed] = {}
    for seed in wanted:
        params = space.params(**{name: value for name, value in seed.params.items() if name in space.ladders})
        seeds.setdefault(tuple(params.values()), seed._replace(params=params))
    return list(seeds.values())


def _advice(space: Space, limit: Verdict | None) -> list[Seed]:
    """Return what the limit would turn next, if that is settings which are all searched."""
    values = advised(space.asked, space.default, limit.knob) if limit else {}
    if not limit or not values or not values.keys() <= space.ladders.keys():
        return []
    return [Seed(values, f"what its limit advises: {limit.knob.change}", limit.gain)]


def smallest_good_batch(found: Mapping[str, Any]) -> int:
    """Return the smallest cap, with the best number of lanes, that nearly reaches the best rate.

    On cores a candidate counts by its processor time, as if no other program had used them.
    """
    on_cores = str(found["backend"]["device"]).startswith("cpu")
    tried = [one for one in found["tried"] if one["lanes"] == found["lanes"]]
    rates = {int(one["bucket"]): 1 / one["cpu_us"] if on_cores else one["rows_per_second"] for one in tried}
    return min(bucket for bucket, rate in rates.items() if rate >= NEARLY * max(rates.values()))


def _shape(space: Space, lanes: int, batch: int) -> dict[str, Any]:
    """Return lanes and cap with the games in flight that fill them: a batch a lane (two on a GPU) and two more."""
    trees = ((1 if space.on_cores else 2) * lanes + 2) * batch
    return {"lanes": lanes, "max_batch": batch, "games_per_worker": -(-trees // space.asked.search.worlds)}
