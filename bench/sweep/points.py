"""The points of a sweep: pools that differ in workers, games, max batch, delay, lanes or simulations a search."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from grove.bench.core.modes import FIXED, GROUPS, Asked, direct_kinds, pool_plan, pool_plans
from grove.bench.core.results import OURS
from grove.common.errors import GroveError, SettingError
from grove.common.machine import free_memory_bytes
from grove.common.words import plural
from grove.game import load_game
from grove.workers.pool.plan import PoolPlan
from grove.workers.pool.sizing import check_memory, lanes_of

SWEPT = ("server-process", "server-thread", "local", "direct", *FIXED)
"""Modes that can be swept; see bench/core/modes.py."""
AXES = ("workers", "games_per_worker", "max_batch", "max_delay_us", "lanes", "simulations")
_OF_SERVER = ("max_batch", "max_delay_us", "lanes")
AXES_OF = {
    mode: tuple(axis for axis in AXES if mode not in ("local", "direct") or axis not in _OF_SERVER) for mode in SWEPT
}
"""The axes that make a difference in a mode."""
_LIMITS = {
    "workers": (1, 1024),
    "games_per_worker": (0, 65536),
    "max_batch": (1, 65536),
    "max_delay_us": (0, 60_000_000),
    "lanes": (1, 1024),
    "simulations": (1, 1_000_000),
}
_PROCESS_MB = {"server-process": 90, "server-thread": 0, "local": 400, "direct": 400, **dict.fromkeys(FIXED, 90)}
"""Megabytes of a worker process without its trees (docs/performance.md, Memory); torch is most of the larger ones."""


class Point(NamedTuple):
    """One pool of a sweep."""

    mode: str
    workers: int
    games_per_worker: int
    """0 where the machine cannot hold the pool, so that nothing was derived."""
    max_batch: int
    max_delay_us: int
    lanes: int
    varied: str = "base"
    """The axis this point belongs to: `base`, one of `AXES`, or `grid`."""
    games_derived: bool = False
    """Whether the games a worker were left open."""
    simulations: int = 0
    """Of each search; 0 as the settings say, which all points have but those of that axis."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """What the point is but for its mode."""
        return (*self[1:6], self.simulations)

    @property
    def key(self) -> str:
        """What tells points apart: also the name of a folder."""
        values = zip("wgbdl", self[1:6], strict=True)
        searched = [f"s{self.simulations}"] if self.simulations else []
        return "-".join([self.mode, *(f"{letter}{value}" for letter, value in values), *searched])

    def __str__(self) -> str:
        parts = [f"{self.mode}: {plural(self.workers, 'workers')} x {plural(self.games_per_worker, 'games')}"]
        if self.mode not in ("local", "direct"):
            parts += [f"batches of {self.max_batch}", f"delay {self.max_delay_us} us", plural(self.lanes, "lanes")]
        return ", ".join(parts + ([f"{self.simulations} simulations"] if self.simulations else []))


Team = tuple[Point, ...]
"""Points that are measured together, taking turns."""


def parse_axis(axis: str, text: str, usual: Iterable[int]) -> tuple[int, ...]:
    """Return the ascending values of ``1,2,8`` or ``1..128`` (doubling), none for ``off``, `usual` for ``auto``.

    Raises SettingError for anything else and for values out of range.
    """
    if text.strip() in ("auto", "off"):
        return tuple(sorted(set(usual))) if text.strip() == "auto" else ()
    flag, (low, high) = f"over-{axis.replace('_', '-')}", _LIMITS[axis]
    try:
        values = sorted({value for part in text.split(",") for value in _values(part)})
    except ValueError:
        limit = "it must be a list of whole numbers"
        raise SettingError.of(flag, text, limit, "write it like 1,2,8 or 1..128 (which doubles), or off") from None
    wrong = next((value for value in values if not low <= value <= high), None)
    if wrong is not None:
        raise SettingError.of(flag, text, f"{wrong} does not lie in {low}..{high}", "choose values in that range")
    return tuple(values)


def parse_swept(text: str) -> tuple[str, ...]:
    """Return the modes of a comma-separated list, `fixed` for all rules of other programs, each once.

    Raises SettingError for those that cannot be swept.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    modes = tuple(dict.fromkeys(mode for part in parts for mode in (GROUPS["fixed"] if part == "fixed" else (part,))))
    unknown = [mode for mode in modes if mode not in SWEPT]
    if unknown or not modes:
        limit = f"{unknown[0]!r} cannot be swept" if unknown else "it names no mode"
        raise SettingError.of("modes", text, limit, f"choose from {', '.join(SWEPT)}, or fixed")
    return modes


def make_points(asked: Asked, axes: Mapping[str, tuple[int, ...]], grid: bool) -> tuple[Point, ...]:
    """Return every point once: around the base of each mode one axis at a time, or all combinations of a `grid`.

    The base is what the settings of pool and server say. Games a worker that they leave open are derived from the
    base's max batch and lanes, so that along those axes they stay the same; from more workers each gets fewer, so that
    along that axis all games together stay the same as far as the fewest games of a worker allow.

    Raises SettingError for a grid over simulations, whose points would not be of one load.
    """
    if grid and axes.get("simulations"):
        limit = "a grid compares the points of one load"
        raise SettingError.of("over-simulations", ",".join(map(str, axes["simulations"])), limit, "use --shape star")
    points: dict[str, Point] = {}
    for mode in asked.modes:
        for point in _grid(asked, mode, axes) if grid else _star(asked, mode, axes):
            settled = _settled(asked, point)
            points.setdefault(settled.key, settled)
    return tuple(points.values())


def point_plan(asked: Asked, point: Point) -> PoolPlan:
    """Return the pool of a point.

    Raises SettingError when it cannot be held in memory or a request cannot hold its rows.
    """
    sized = _sized(asked, point)
    plan = _direct(sized) if point.mode == "direct" else pool_plan(sized, point.mode)
    if point.mode in ("local", "direct"):
        chosen = plan.sizes
        sizes = replace(chosen, workers=point.workers or chosen.workers, games=point.games_per_worker or chosen.games)
        check_memory(load_game(asked.game_spec), asked.search, sizes)
        plan = replace(plan, sizes=sizes)
    check_processes(point.mode, plan.sizes.workers)
    return plan


def teams(points: Iterable[Point]) -> list[Team]:
    """Return the points as they are visited: rules of other programs together with ours, others each alone."""
    found: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        name = "rules" if point.mode in (OURS, *FIXED) else point.mode
        found.setdefault((name, *point.sizes), []).append(point)
    return [tuple(team) for team in found.values()]


def check_team(asked: Asked, team: Team) -> None:
    """Raise SettingError when pools that are warm at once do not fit into memory together."""
    if len(team) > 1:
        first = team[0]
        pool_plans(replace(_sized(asked, first), modes=tuple(point.mode for point in team)))
        check_processes(first.mode, len(team) * first.workers)


def _values(part: str) -> list[int]:
    first, dots, last = part.partition("..")
    if not dots:
        return [int(first)]
    low, high = int(first), int(last)
    if not 1 <= low <= high:
        raise ValueError(part)
    doubled = itertools.takewhile(lambda value: value < high, (low << i for i in itertools.count()))
    return [*doubled, high]


def _sized(asked: Asked, point: Point) -> Asked:
    pool = replace(asked.pool, workers=point.workers, games_per_worker=point.games_per_worker)
    server = replace(asked.server, max_batch=point.max_batch, max_delay_us=point.max_delay_us, lanes=point.lanes)
    search = replace(asked.search, simulations=point.simulations or asked.search.simulations)
    return replace(asked, pool=pool, server=server, search=search)


def _base(asked: Asked, mode: str) -> Point:
    server = asked.server
    lanes = lanes_of(server, asked.network.device)[0] if "lanes" in AXES_OF[mode] else 0
    base = Point(mode, asked.pool.workers, asked.pool.games_per_worker, server.max_batch, server.max_delay_us, lanes)
    return base if base.workers else base._replace(workers=_settled(asked, base).workers)


def _star(asked: Asked, mode: str, axes: Mapping[str, tuple[int, ...]]) -> list[Point]:
    base = _base(asked, mode)
    chosen = [(axis, value) for axis in AXES_OF[mode] for value in axes.get(axis, ())]
    return [base, *(_with(base._replace(varied=axis), {axis: value}) for axis, value in chosen)]


def _grid(asked: Asked, mode: str, axes: Mapping[str, tuple[int, ...]]) -> list[Point]:
    base = _base(asked, mode)._replace(varied="grid")
    known = AXES_OF[mode]
    ranges = [axes.get(axis, ()) if axis in known else () for axis in AXES]
    filled = [values or (getattr(base, axis),) for axis, values in zip(AXES, ranges, strict=True)]
    return [_with(base, dict(zip(AXES, values, strict=True))) for values in itertools.product(*filled)]


def _with(point: Point, values: Mapping[str, Any]) -> Point:
    return point._replace(**values)


def _settled(asked: Asked, point: Point) -> Point:
    """Return the point with open numbers of workers and games derived from the max batch and lanes of the base.

    As it is when nothing is open, or when it cannot be played here.
    """
    if point.simulations == asked.search.simulations:
        point = point._replace(simulations=0)
    if point.workers and point.games_per_worker:
        return point
    try:
        plan = point_plan(asked, point._replace(max_batch=asked.server.max_batch, lanes=asked.server.lanes))
    except GroveError:
        return point
    sizes = plan.sizes
    derived = not point.games_per_worker
    return point._replace(workers=sizes.workers, games_per_worker=sizes.games, games_derived=derived)


def _direct(asked: Asked) -> PoolPlan:
    """Return the usually fastest way to run `direct` that works here."""
    return [variant for variant in direct_kinds(asked) if not variant.fault][-1].plan


def check_processes(mode: str, workers: int, free_bytes: Callable[[], int] = free_memory_bytes) -> None:
    """Raise SettingError when the processes alone would not fit into memory: the system would kill some of them."""
    needed, free = workers * _PROCESS_MB[mode] * 2**20, free_bytes()
    if needed > free:
        limit = f"as many {mode} processes take about {needed / 2**30:.0f} GiB and {free / 2**30:.1f} GiB are free"
        raise SettingError.of("workers", workers, limit, "use fewer workers")
