"""The settings that `grove tune` tries first: the default, and what the network's own measurement predicts.

A batch cap beyond which the network gains nothing only keeps more games in flight, whose trees drive each other and
the network out of the near caches; and what a game's next decision asks was asked by its last one, so a cache of a few
decisions saves the network up to half its work. Which of it holds here, trials say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.tune_space import Space
from common.machine import usable_cores

NEARLY = 0.97
"""Share of the best rate from which a smaller batch counts as good as the best."""
CACHED = 8
"""Decisions of each game in flight that the first caches hold."""


class Seed(NamedTuple):
    """Settings to try before anything is searched."""

    params: dict[str, Any]
    why: str


def make_seeds(space: Space, found: Mapping[str, Any]) -> list[Seed]:
    """Return the settings to begin with, each once; `found` is what the network alone gave (`Roof.found`)."""
    best = _shape(space, found["lanes"], found["bucket"])
    small = _shape(space, found["lanes"], smallest_good_batch(found))
    other = "process" if space.default.pool == "thread" else "thread"
    workers = usable_cores() if other == "process" else 1
    wanted: list[tuple[dict[str, Any], str]] = [
        ({}, "the default"),
        ({"cache": CACHED}, "the default with a cache"),
        (best, "the lanes and batches in which the network alone is fastest"),
        (best | {"cache": CACHED}, "the same with a cache"),
        (small | {"cache": CACHED}, "the smallest batches in which the network alone is nearly as fast, with a cache"),
        ({"pool": other, "workers": workers, "cache": CACHED}, f"the default with the {other} pool and a cache"),
        (small, "the smallest batches in which the network alone is nearly as fast"),
    ]
    seeds: dict[tuple[Any, ...], Seed] = {}
    for values, why in wanted:
        params = space.params(**{name: value for name, value in values.items() if name in space.ladders})
        seeds.setdefault(tuple(params.values()), Seed(params, why))
    return list(seeds.values())


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
