"""`grove bench sweep`: its settings, the folder that it goes on in, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.console import Console

from grove import bench
from grove.bench.sweep.points import AXES, make_points, parse_axis, parse_swept
from grove.bench.sweep.report import report_sweep
from grove.bench.sweep.rows import COLUMNS, Row, sweep_rows, to_csv, with_plan
from grove.bench.sweep.sweep import SweepPlan, run_sweep
from grove.commands.bench import Probed, load_fields, resolve_load
from grove.commands.console import text_console
from grove.common import machine
from grove.common.errors import PoolError
from grove.game import Game
from grove.run.folder import RunFolder, write_whole
from grove.run.settings import check_range, flatten

MOST_WORKERS = 128


@dataclass(frozen=True, kw_only=True)
class Sweep(Probed):
    """Measure self-play over workers, games per worker, max batch, delay, lanes and simulations a search: one row a
    point. The same command on the same folder goes on, tries again what failed, and visits what was added."""

    modes: str = "server-process,server-thread"
    """Comma-separated modes to sweep: server-process, server-thread, local, direct; full-only, time-out-only, drain,
    1ms, adaptive-wait (together `fixed`: batching rules of other programs), which take turns with server-process at
    their slices, so that they stand beside it as ratios of pairs: columns `ours_by_rule`, and rules.png."""
    quick: bool = False
    """About two minutes: few points, three seconds each, visited once."""
    shape: Literal["star", "grid"] = "star"
    """`star` varies one setting at a time around the settings of pool and server; `grid` takes all combinations."""
    over_workers: str = "auto"
    """Workers to visit: a list such as 1,2,8, or 1..128, which doubles; `off` leaves them as --workers says. `auto` is
    1..128, when quick 1 and one, four and sixteen for each core (128 at most)."""
    over_games_per_worker: str = "auto"
    """Games a worker to visit; `auto` is 16,64,256, when quick off. Along the other axes they are as --games-per-worker
    says. 0, here or there, derives them: as many as fill the lanes at the settings' max batch, all workers together."""
    over_max_batch: str = "auto"
    """Batch caps to visit, rows; `auto` is 64..1024, when quick 64."""
    over_max_delay_us: str = "auto"
    """Longest delays to visit, microseconds; `auto` is 0,1000,20000, when quick off."""
    over_lanes: str = "auto"
    """Lanes to visit; `auto` is 1,2 and one a core (eight at most), when quick off."""
    over_simulations: str = "auto"
    """Simulations a search to visit, to see what cheap and thorough searches make of the same pool; none of them is
    taken for the fastest point. `auto` is a quarter and four times of --simulations, when quick or a grid off."""
    point_seconds: float = 0.0
    """Seconds of measuring at each visit of a point; starting and warming it comes on top. 0 = 6, when quick 3."""
    visits: int = 0
    """Visits of every point, every second time in the opposite order; 0 = 2, when quick 1."""
    plan: str | None = None
    """Training plan as ITERATIONSxGAMES, such as 500x10000: the days its games would take at each point are added."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.point_seconds:
            check_range("point_seconds", self.point_seconds, 0.3, 3600)
        check_range("visits", self.visits, 0, 100)


def sweep(settings: Sweep) -> int:
    """Visit what the folder does not hold yet; write results.csv, results.json and chart.png; returns the exit status.

    Raises GroveError for a setting that cannot work, a folder of another sweep, or when no point could be measured.
    """

    modes, plan, axes = parse_swept(settings.modes), bench.parse_plan(settings.plan), sweep_axes(settings)
    game, settings, network = resolve_load(with_form(settings), "sweep")
    console = text_console()
    # Settings that say which points are visited and how they are read, not how one is measured.
    may_differ = {"out", "modes", "shape", "quick", "visits", "plan", "preset", "config", "probe_limit", *AXES}
    may_differ = may_differ - {"simulations"} | {f"over_{axis}" for axis in AXES}
    with RunFolder.open_or_create(str(settings.out), flatten(settings), may_differ=may_differ) as folder:
        console.print(network)
        given = load_fields(settings) | {"out": folder.path, "probe_limit": settings.probe_limit}
        asked = bench.Asked(**given, modes=modes, seconds=settings.point_seconds)
        points = make_points(asked, axes, settings.shape == "grid")
        rows = _visit(SweepPlan(asked=asked, points=points, visits=settings.visits), game, plan, console)
        report_sweep(asked, rows, plan, console)
    return 0


def with_form(settings: Sweep) -> Sweep:
    """Return the settings with what the form, quick or full, says where they leave it open."""
    seconds = settings.point_seconds or (3.0 if settings.quick else 6.0)
    return replace(settings, point_seconds=seconds, visits=settings.visits or (1 if settings.quick else 2))


def sweep_axes(settings: Sweep) -> dict[str, tuple[int, ...]]:
    """Return the values to visit along each axis."""

    cores, few = machine.usable_cores(), settings.quick
    simulations = settings.search.simulations
    usual: dict[str, tuple[int, ...]] = {
        "workers": (1, *(min(count * cores, MOST_WORKERS) for count in (1, 4, 16))),
        "max_batch": (64,),
    }
    if not few:
        usual = {
            "workers": tuple(1 << power for power in range(8)),
            "games_per_worker": (16, 64, 256),
            "max_batch": (64, 128, 256, 512, 1024),
            "max_delay_us": (0, 1000, 20000),
            "lanes": (1, 2, min(cores, 8)),
        }
        if settings.shape == "star":
            usual["simulations"] = max(1, simulations // 4), min(4 * simulations, 1_000_000)
    return {axis: parse_axis(axis, getattr(settings, f"over_{axis}"), usual.get(axis, ())) for axis in AXES}


def _visit(steps: SweepPlan, game: Game, plan: Any, console: Console) -> list[Row]:
    """Visit and return the rows; the files are up to date after every visit. Raises PoolError when no point worked."""

    out = steps.asked.out

    def keep(visits: Sequence[Any]) -> list[Row]:
        rows = with_plan(sweep_rows(steps.asked, steps.points, visits, game.units), plan)
        write_whole(out / "results.csv", to_csv(rows))
        write_whole(out / "results.json", json.dumps(rows, indent=2) + "\n")
        return rows

    write_whole(out / "columns.json", json.dumps(COLUMNS, indent=2) + "\n")
    try:
        rows = keep(run_sweep(steps, console.print, keep))
    except KeyboardInterrupt:
        console.print(f"stopped; the same command with --out {out} goes on")
        raise
    if not any(row["success"] for row in rows):
        raise PoolError(f"no point could be measured; the last failure: {rows[-1]['failure']}")
    return rows
