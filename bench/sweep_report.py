"""What a sweep prints at its end: a line a point, the days of a plan, the finding; and its chart."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from bench.estimate import Plan
from bench.modes import Asked
from bench.report import form, print_days, print_lines
from bench.sweep_rows import Row
from common import machine
from workers.figures import counted, search_text

_NAMED = ("base", "workers", "grid")
_HEADS = ("mode", "workers", "games", "cap", "delay ms", "lanes", "per core", "evaluations/s", "of the roof")
_MORE_HEADS = ("simulations/s", "cpu", "cpu us/row", "rows/batch", "fill", "distinct", "entropy", "slowest")


def report_sweep(asked: Asked, rows: Sequence[Row], plan: Plan | None, console: Console) -> None:
    """Draw chart.png and print everything; one row at least was measured."""
    from bench.sweep_chart import draw_sweep, finding  # matplotlib takes half a second to import

    here = machine.describe()
    chart = draw_sweep(
        rows,
        asked.out / "chart.png",
        subtitle=f"{asked.game_spec}, {asked.network.model or asked.network.network}, {search_text(asked.search)}; "
        f"{here['cpu']}, {here['cores']} cores; whiskers: slowest and fastest slice",
    )
    console.print()
    print_rows(rows, console)
    if plan:
        console.print()
        named = [(f"{row['mode']}, {row['workers']} workers", row) for row in rows if row["varied"] in _NAMED]
        print_days(plan, named, console)
    failed = sum(row["error"] is not None for row in rows)
    if failed:
        console.print(f"\n{failed} of {len(rows)} points failed; the same command on this folder tries them again")
    console.print(f"\n{finding(rows)}\n{asked.out / 'results.csv'}, {asked.out / 'results.json'}, {chart}")


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Print one line a point, then what failed or wants to be noted; all columns are in the files.

    `per core`: threads that want to run. `slowest`: the slowest worker's evaluations by the mean worker's.
    """
    units = counted(next(row for row in rows if row["success"]))
    heads = (*_HEADS, *(f"{unit}/min" for unit in units), *_MORE_HEADS)
    print_lines(heads, [_texts(row, units) for row in rows], console)
    for row in rows:
        for text in filter(None, (row["error"], row["note"])):
            console.print(f"{row['mode']}, {row['workers']} workers: {text}", soft_wrap=True)


def _texts(row: Row, units: Sequence[str]) -> tuple[str, ...]:
    delay = row["window_us"]
    return (
        row["mode"],
        str(row["workers"]),
        str(row["games_per_worker"]),
        form(row["batch_size"], "{}"),
        form(None if delay is None else delay / 1000, "{:g}"),
        str(row["lanes"]),
        form(row["over_subscription"], "{:.2g}x"),
        form(row["evaluations_per_second"], "{:,.0f}") if row["success"] else "failed",
        form(row["roof_share"], "{:.1%}"),
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
