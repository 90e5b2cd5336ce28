"""What a sweep prints at its end: a line a point, the days of a plan, the finding; and its chart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.console import Console

from grove.bench.core.estimate import LongRun
from grove.bench.core.modes import Asked
from grove.bench.core.report import busy_warning, form, print_days, print_lines, rule_texts
from grove.bench.sweep.finding import finding, rule_cases, rules_finding
from grove.bench.sweep.rows import Row
from grove.common import machine
from grove.common.words import plural
from grove.workers.pool.figures import counted, search_text

_RULE_HEADS = ("ours by rule", "lowest..highest")
"""Only where rules of other programs took turns with ours."""
_NAMED = ("base", "workers", "grid", "simulations")
"""Points whose days are told: those along the other axes have the names of others."""
_HEADS = ("mode", "workers", "games", "cap", "delay ms", "lanes", "sims", "per core", "evaluations/s", "of the peak")
_MORE_HEADS = ("simulations/s", "cpu", "cpu us/row", "rows/batch", "fill", "distinct", "entropy", "slowest")


def report_sweep(asked: Asked, rows: Sequence[Row], plan: LongRun | None, console: Console) -> None:
    """Draw chart.png and print everything; one row at least was measured."""
    from grove.bench.sweep.chart import draw_sweep
    from grove.bench.sweep.rules_chart import draw_rules  # matplotlib takes half a second to import

    here = machine.describe()
    where = f"{asked.game_spec}, {asked.network.model or asked.network.network}, {search_text(asked.search)}; "
    where += f"{here['cpu']}, {here['cores']} cores; whiskers: "
    drawn = (
        draw_sweep(rows, asked.out / "chart.png", subtitle=f"{where}slowest and fastest slice"),
        draw_rules(rows, asked.out / "rules.png", subtitle=f"{where}lowest and highest pair of slices"),
    )
    console.print()
    print_rows(rows, console)
    if plan:
        console.print()
        named = [(_name(row), row) for row in rows if row["varied"] in _NAMED]
        print_days(plan, named, console)
    _print_failures(rows, console)
    if warning := busy_warning(_others(rows)):
        console.print(f"\n{warning}")
    console.print(f"\n{finding(rows)}")
    if rule_cases(rows):
        console.print(rules_finding(rows))
    charts = [str(path) for path in drawn if path]
    console.print(", ".join([str(asked.out / "results.csv"), str(asked.out / "results.json"), *charts]))


def _print_failures(rows: Sequence[Row], console: Console) -> None:
    failed = sum(not row["success"] for row in rows)
    again = sum(row["success"] and row["failure"] is not None for row in rows)
    if failed:
        said = f"{failed} of {plural(len(rows), 'points')} failed"
        console.print(f"\n{said}; the same command on this folder tries them again")
    if again:
        said = f"{plural(again, 'points')} had a visit that failed beside others that did not"
        console.print(f"\n{said}; the same command on this folder makes it again")


def _others(rows: Sequence[Row]) -> float | None:
    """Return the processors that other programs used, mean over the points; None where that is not known."""
    known = [row["others_cpu"] for row in rows if row["others_cpu"] is not None]
    return fmean(known) if known else None


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Print one line a point, then what failed or wants to be noted; all columns are in the files.

    `sims`: simulations a search. `per core`: threads that want to run. `slowest`: the slowest worker's evaluations by
    the mean worker's.
    """
    units = counted(next(row for row in rows if row["success"]))
    ruled = any(row["ours_by_rule"] for row in rows)
    heads = (*_HEADS, *(f"{unit}/min" for unit in units), *_MORE_HEADS, *(_RULE_HEADS if ruled else ()))
    print_lines(heads, [_texts(row, units) + (rule_texts(row) if ruled else ()) for row in rows], console)
    for row in rows:
        for text in filter(None, (row["failure"], row["note"])):
            console.print(f"{_name(row)}: {text}", soft_wrap=True)


def _name(row: Row) -> str:
    searched = f", {row['simulations_per_search']} simulations" if row["varied"] == "simulations" else ""
    return f"{row['mode']}, {plural(row['workers'], 'workers')}{searched}"


def _texts(row: Row, units: Sequence[str]) -> tuple[str, ...]:
    delay = row["window_us"]
    return (
        row["mode"],
        str(row["workers"]),
        str(row["games_per_worker"]),
        form(row["batch_size"], "{}"),
        form(None if delay is None else delay / 1000, "{:g}"),
        str(row["lanes"]),
        str(row["simulations_per_search"]),
        form(row["over_subscription"], "{:.2g}x"),
        form(row["evaluations_per_second"], "{:,.0f}") if row["success"] else "failed",
        form(row["peak_share"], "{:.1%}"),
        *(form(row.get(f"{unit}_per_minute"), "{:,.0f}") for unit in units),
        form(row["simulations_per_second"], "{:,.0f}"),
        form(row["cpu_percent"], "{:.0f} %"),
        form(row["cpu_us_per_evaluation"], "{:.1f}"),
        form(row["mean_batch_rows"], "{:.0f}"),
        form(row["fill"], "{:.0%}"),
        form(row["distinct_share"], "{:.1%}"),
        form(row["mean_visit_entropy"], "{:.2f}"),
        form(row["slowest_worker"], "{:.2f}"),
    )
