"""How near a tuning came to the best of a full grid: `python -m grove.bench.tune.proof SWEEP TUNE... [--seconds S]`.

SWEEP is the folder of `grove bench sweep --shape grid`, TUNE one of `grove tune` for the same load. The grid's best
points and the tuned settings are played again in interleaved slices, all pools warm, because a grid's best point is
also the luckiest: the figure is the tuned settings by the best of the grid as measured now.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

from grove.bench.core.compare import play_round, slice_length
from grove.bench.core.results import raw_rounds
from grove.bench.core.rounds import Round
from grove.bench.core.slices import WarmPool
from grove.bench.limit.limit import LimitAsked, pool_plan
from grove.bench.sweep.finding import number, rank_column
from grove.bench.tune.gain import Gain, gain_of
from grove.bench.tune.space import Choice
from grove.common import machine
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.pool.plan import PoolPlan
from grove.workers.pool.settings import PoolSettings

GRID_BEST = 3
"""Points of the grid that are played again: its figures are of single visits."""
PROBE_LIMIT = 0.1


@dataclass(frozen=True)
class Entry:
    """One way to run."""

    name: str
    choice: Choice


def grid_entries(rows: list[dict[str, Any]], settings: dict[str, Any], best: int = GRID_BEST) -> list[Entry]:
    """Return the best points of results.json of a sweep, the best first; `settings` are those of the sweep."""
    good = [row for row in rows if row["success"]]
    column = rank_column(good)
    good.sort(key=lambda row: -number(row, column))
    return [Entry(f"grid {place}", _point(row, settings)) for place, row in enumerate(good[:best], start=1)]


def _point(row: dict[str, Any], settings: dict[str, Any]) -> Choice:
    return Choice(
        pool="thread" if row["threads"] else "process",
        workers=row["workers"],
        games_per_worker=row["games_per_worker"],
        groups=row["groups"],
        max_batch=row["batch_size"],
        max_delay_us=row["window_us"],
        lanes=row["lanes"],
        dtype=row["dtype"],
        cache=settings["cache"],
    )


def plan_of(settings: dict[str, Any], choice: Choice, out: Path) -> PoolPlan:
    """Return the pool of a choice for the load of `settings`, flat as run.json of a tuning holds them."""
    wanted = settings | choice._asdict()

    def part(kind: Any) -> Any:
        return kind(**{item.name: wanted[item.name] for item in fields(kind) if item.name in wanted})

    asked = LimitAsked(
        game_spec=settings["game"],
        seconds=1.0,
        out=out,
        seed=settings["seed"],
        search=part(SearchSettings),
        pool=part(PoolSettings),
        network=part(NetworkSettings),
        server=part(ServerSettings),
    )
    return replace(pool_plan(asked), games_folder=out / "games")


def play(entries: list[Entry], settings: dict[str, Any], seconds: float) -> list[Round]:
    """Play all entries in interleaved slices and return the rounds; every process has ended by then."""
    with ExitStack() as stack:
        out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pools = {one.name: WarmPool(one.name, plan_of(settings, one.choice, out / one.name)) for one in entries}
        for pool in pools.values():
            stack.enter_context(pool).start()
        slice_s, count = slice_length(seconds, len(pools))
        return [play_round(pools, None, slice_s, number) for number in range(count)]


def judge(rounds: list[Round], entries: list[Entry], tuned: str) -> tuple[str, Gain]:
    """Return the best entry of the grid as measured in `rounds`, and what `tuned` brings over it."""
    rates = {one.name: median(done.slices[one.name].simulations_per_second for done in rounds) for one in entries}
    best = max((one.name for one in entries if one.name.startswith("grid")), key=lambda name: rates[name])
    return best, gain_of(rounds, tuned, best, PROBE_LIMIT)


def main() -> None:
    """Play and print; `--out FILE` keeps everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("tune", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows, visits = _read(given.sweep / "results.json"), (given.sweep / "visits.jsonl").read_text().splitlines()
    settings = _read(given.tune[0] / "run.json")["settings"]
    entries = grid_entries(rows, settings)
    results = {folder.name: _read(folder / "results.json") for folder in given.tune}
    entries += [Entry(f"tune {name}", Choice(**result["winner"])) for name, result in results.items()]
    entries.append(Entry("default", Choice(**{name: results[given.tune[0].name]["default"][name]
                                              for name in Choice._fields})))  # fmt: skip
    rounds = play(entries, settings, given.seconds)
    took = ", ".join(f"{result['seconds']:.0f} s" for result in results.values())
    print(f"{len(rows)} points in {len(visits)} visits; the tunings took {took}")
    for one in entries:
        rate = median(done.slices[one.name].simulations_per_second for done in rounds)
        print(f"{one.name}: {rate:,.0f} simulations/s: {one.choice}")
    gains = {}
    for name in results:
        best, gain = judge(rounds, entries, f"tune {name}")
        gains[name] = {"best_of_grid": best, **gain._asdict()}
        ends, sure = f"[{gain.low:.3f}, {gain.high:.3f}]", f"{gain.confidence:.0%}, {gain.rounds} rounds"
        print(f"tune {name} by {best}: {gain.median:.3f} {ends} ({sure})")
    if given.out:
        content = {
            **machine.provenance(),
            "entries": [{"name": one.name, **one.choice._asdict()} for one in entries],
            "gains": gains,
            "rounds": raw_rounds(rounds, PROBE_LIMIT),
        }
        given.out.write_text(json.dumps(content, indent=2, default=str) + "\n")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
