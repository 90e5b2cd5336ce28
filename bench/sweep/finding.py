"""What a sweep shows: how its points rank, which lie along an axis, and how our batching rule stands; in words too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grove.bench.core.modes import FIXED
from grove.bench.sweep.points import AXES_OF
from grove.common.words import plural

Row = Mapping[str, Any]

AXES = {
    "workers": ("workers", "workers (below: threads that want to run, per core)"),
    "games_per_worker": ("games_per_worker", "games per worker"),
    "max_batch": ("batch_size", "max batch, rows"),
    "max_delay_us": ("window_us", "longest delay, ms"),
    "lanes": ("lanes", "lanes"),
    "simulations": ("simulations_per_search", "simulations a search"),
}
"""Axis -> its column and how its panel is called."""
_MOST_NAMED = 3


def rank_column(rows: Sequence[Row]) -> str:
    """Return the column that points are compared by: `peak_share`, or the rate where one was measured without a peak.

    Points were measured in different minutes, and a machine that slows down slows the peak beside them down as well.
    """
    measured = [row for row in rows if number(row, "evaluations_per_second")]
    shared = measured and all(number(row, "peak_share") for row in measured)
    return "peak_share" if shared else "evaluations_per_second"


def best_point(rows: Sequence[Row]) -> int:
    """Return the place of the fastest row by `rank_column`, -1 when nothing was measured.

    Points with other simulations a search play another load and do not count, nor do those with a note (measured on a
    busy machine, say) while there are others.
    """
    column = rank_column(rows)
    ranks = [number(row, column) if row.get("varied") != "simulations" else 0.0 for row in rows]
    sound = [0.0 if row.get("note") else rank for row, rank in zip(rows, ranks, strict=True)]
    ranks = sound if any(sound) else ranks
    return ranks.index(max(ranks)) if ranks and max(ranks) > 0 else -1


def number(row: Row, column: str) -> float:
    """Return a figure of a row, which may have been read from CSV; 0 where it holds none."""
    try:
        return float(row.get(column) or 0.0)
    except ValueError:
        return 0.0


def tick(axis: str, value: int) -> str:
    """Return a value of an axis as text."""
    return f"{value / 1000:g}" if axis == "max_delay_us" else f"{value:,}"


# -- along an axis -----------------------------------------------------------------------------------------------------


def panel_rows(rows: Sequence[Row], axis: str, mode: str) -> list[Row]:
    """Return the points of one line: of a star those along the axis, of a grid the best of every value; ascending.

    None where the axis makes no difference in the mode.
    """
    column, rank = AXES[axis][0], rank_column(rows)
    mine = [row for row in rows if row["mode"] == mode and row["varied"] in ("base", "grid", axis)]
    best: dict[int, Row] = {}
    for row in mine if axis in AXES_OF[mode] else []:
        value = row[column]
        if value is not None and (value not in best or number(row, rank) > number(best[value], rank)):
            best[value] = row
    return [best[value] for value in sorted(best)]


def modes_of(rows: Sequence[Row]) -> list[str]:
    """Return the modes in their order."""
    return list(dict.fromkeys(row["mode"] for row in rows))


def values_of(rows: Sequence[Row], axis: str) -> list[int]:
    """Return the values that an axis takes over all modes, ascending."""
    return sorted({row[AXES[axis][0]] for mode in modes_of(rows) for row in panel_rows(rows, axis, mode)})


def swept_axes(rows: Sequence[Row]) -> list[str]:
    """Return the axes along which some point was visited; the workers where there is none."""
    varied = {row["varied"] for row in rows}
    found = [axis for axis in AXES if axis in varied or ("grid" in varied and len(values_of(rows, axis)) > 1)]
    return found or ["workers"]


# -- in words ----------------------------------------------------------------------------------------------------------


def finding(rows: Sequence[Row]) -> str:
    """Return in one line which point is the fastest, what is not told apart, and what the most workers make of it.

    Points are told apart when all slices of the one are faster than all of the other.
    """
    column, place = rank_column(rows), best_point(rows)
    if place < 0:
        return "No point of the load itself could be measured"
    best = rows[place]
    lowest = number(best, f"{column}_low")
    others = [row for row in rows if row is not best and row["varied"] != "simulations"]
    alike = sum(number(row, f"{column}_high") >= lowest for row in others)
    text = f"Fastest with {_people(best, rows)}: {_speed(best, column)}"
    if alike:
        text += f", not told apart from {plural(alike, 'others')}"
    line = [row for row in panel_rows(rows, "workers", best["mode"]) if row["success"]]
    crowd = line[-1] if line else best
    if crowd["workers"] <= best["workers"] or number(crowd, f"{column}_high") >= lowest:
        return text
    return (
        f"{text}; {crowd['workers']} workers reach {100 * number(crowd, column) / number(best, column):.0f} % of that"
    )


def _speed(row: Row, column: str) -> str:
    rate = f"{number(row, 'evaluations_per_second'):,.0f} evaluations/s"
    return f"{100 * number(row, column):.0f} % of the peak, {rate}" if column == "peak_share" else rate


def _people(row: Row, rows: Sequence[Row]) -> str:
    """Return a point in words: its workers, its mode, and where it leaves the base or differs within a grid."""
    count, mode = row["workers"], row["mode"]
    kind = {"server-thread": "search thread", "local": "local process", "direct": "direct process"}
    name = kind.get(mode, "search process")
    words = f"{count} {name}{'' if count == 1 else 'es' if name.endswith('s') else 's'}"
    words += f" under {mode}" if mode in FIXED else ""
    axes = swept_axes(rows) if row["varied"] == "grid" else [row["varied"]]
    settings = [_setting(axis, row[AXES[axis][0]]) for axis in axes if axis in AXES_OF[mode] and axis != "workers"]
    return " and ".join([words, *settings])


def _setting(axis: str, value: int) -> str:
    """Return a value of an axis in words."""
    text = tick(axis, value)
    words = {"games_per_worker": f"{text} games each", "max_batch": f"a max batch of {text} rows"}
    words |= {"max_delay_us": f"a longest delay of {text} ms", "lanes": plural(value, "lanes")}
    return words[axis]


# -- rules -------------------------------------------------------------------------------------------------------------


def at_loads(rows: Sequence[Row]) -> list[Row]:
    """Return the rows at the base, over the workers and of a grid: those by which rules are compared."""
    return [row for row in rows if row["varied"] in ("base", "workers", "grid")]


def rule_cases(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of other programs' rules that were paired with ours."""
    return [row for row in at_loads(rows) if row.get("ours_by_rule")]


def rules_finding(rows: Sequence[Row]) -> str:
    """Return in words how our rule stands to the others.

    One is ahead when it is in every pair of slices; else the two are not told apart. Where ours is behind is said.
    """
    cases = rule_cases(rows)
    ahead = sum(row["ours_by_rule_low"] > 1 for row in cases)
    behind = [f"{row['mode']} at {row['workers']} x {row['games_per_worker']}"
              for row in cases if row["ours_by_rule_high"] < 1]  # fmt: skip
    even = len(cases) - ahead - len(behind)
    text = f"Our rule is ahead in {ahead} of {len(cases)} cases, not told apart in {even}, behind in {len(behind)}"
    more = ", ..." if len(behind) > _MOST_NAMED else ""
    return f"{text}: {', '.join(behind[:_MOST_NAMED])}{more}" if behind else text
