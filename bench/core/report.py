"""What is left of a comparison: results.json, run.json, chart.png and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from grove.bench.core.compare import Comparison
from grove.bench.core.estimate import LongRun
from grove.bench.core.modes import Asked
from grove.bench.core.results import Row, raw_rounds
from grove.common import machine
from grove.workers.pool.figures import counted, search_text

_COLUMNS = ("mode", "evaluations/s", "of the peak", "vs direct", "lowest..highest", "simulations/s")
_RULE_COLUMNS = ("ours by rule", "lowest..highest")
"""Only where rules other than ours were measured beside it."""
BUSY = 0.1
"""Share of the machine that other programs may take without a warning."""
_MORE_COLUMNS = ("cpu us/row", "rows/batch", "fill", "distinct", "entropy")
"""The rates per minute stand between the two, in the units of the game."""


def write_header(asked: Asked, outcome: Comparison, settings: dict[str, Any], command: Sequence[str]) -> Path:
    """Write run.json: the command, the resolved settings, the machine, the peak's sweep and every round's raw rates."""
    head = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(command),
        **machine.provenance(),
        "settings": settings,
        "clock": "a slice runs from the order to go on until the last worker is at rest; start and warm-up left out",
        "slice_seconds": outcome.slice_s,
        "probe_limit": asked.probe_limit,
        "idle_cpu": outcome.idle_cpu,
        "others_cpu": outcome.others_cpu,
        "peak": outcome.peak,
        "not_measured": outcome.not_measured,
        "rounds": raw_rounds(outcome.rounds, asked.probe_limit),
    }
    return _write(asked.out / "run.json", head)


def write_results(asked: Asked, rows: Sequence[Row]) -> list[Path]:
    """Write results.json and chart.png; return their paths."""
    measured = [row for row in rows if not row["not_measured"]]
    return [_write(asked.out / "results.json", list(rows)), _draw(asked, measured)]


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print the rows as a table, or as plain aligned lines when the console is no terminal."""
    measured = [row for row in rows if not row["not_measured"]]
    units = counted(measured[0])
    ruled = any(row.get("ours_by_rule") for row in measured)
    heads = (*_COLUMNS, *(f"{unit}/min" for unit in units), *_MORE_COLUMNS, *(_RULE_COLUMNS if ruled else ()))
    print_lines(heads, [_texts(row, units) + (rule_texts(row) if ruled else ()) for row in measured], console)
    for row in rows:
        if row["not_measured"]:
            console.print(f"{row['mode']}: not measured: {row['not_measured']}", soft_wrap=True)
        elif row["note"]:
            console.print(f"{row['mode']}: {row['note']}", soft_wrap=True)


def print_lines(heads: Sequence[str], texts: Sequence[Sequence[str]], console: Console) -> None:
    """Print `texts` under `heads`: a table on a terminal, else plain aligned lines; the first column is to the left."""
    if console.is_terminal:
        table = Table(*heads[:1], box=None, pad_edge=False)
        for name in heads[1:]:
            table.add_column(name, justify="right")
        for line in texts:
            table.add_row(*line)
        console.print(table)
    else:
        widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
        for line in (heads, *texts):
            first, *rest = (text.rjust(width) for text, width in zip(line, widths, strict=True))
            console.print("  ".join((first.lstrip().ljust(widths[0]), *rest)), soft_wrap=True)


def _texts(row: Row, units: Sequence[str]) -> tuple[str, ...]:
    low, high = row["ratio_low"], row["ratio_high"]
    name = f"{row['mode']} ({row['variant']})" if row["variant"] else row["mode"]
    return (
        name,
        f"{row['evaluations_per_second']:,.0f}",
        form(row["peak_share"], "{:.1%}"),
        form(row["ratio_to_direct"], "{:.2f}x"),
        f"{low:.2f}..{high:.2f}" if low is not None else "-",
        f"{row['simulations_per_second']:,.0f}",
        *(form(row[f"{unit}_per_minute"], "{:,.0f}") for unit in units),
        form(row["cpu_us_per_evaluation"], "{:.1f}"),
        form(row["mean_batch_rows"], "{:.0f}"),
        form(row["fill"], "{:.1%}"),
        form(row["distinct_share"], "{:.1%}"),
        form(row["mean_visit_entropy"], "{:.2f}"),
    )


def rule_texts(row: Row) -> tuple[str, ...]:
    """Return our rate by a rule's and its spread as texts."""
    if row["ours_by_rule"] is None:
        return "-", "-"
    return f"{row['ours_by_rule']:.2f}x", f"{row['ours_by_rule_low']:.2f}..{row['ours_by_rule_high']:.2f}"


def busy_warning(others_cpu: float | None, cores: int | None = None) -> str:
    """Return a line when other programs used this many of the `cores` (this machine's by default) and that is too many.

    An empty text when it is not.
    """
    cores = machine.usable_cores() if cores is None else cores
    if others_cpu is None:
        return "how much other programs used meanwhile is not known: a CPU quota hides it"
    if others_cpu <= BUSY * cores:
        return ""
    return (
        f"beware: other programs used {others_cpu:.1f} of {cores} cores meanwhile; "
        "trust the ratios of paired slices more than the rates, or compare on a quiet machine"
    )


def form(value: float | None, how: str) -> str:
    """Return `value` formatted as `how` says, "-" for None."""
    return "-" if value is None else how.format(value)


def print_days(plan: LongRun, rows: Sequence[tuple[str, Row]], console: Console) -> None:
    """Print the days of named rows that have `plan_columns`; training and evaluation of a model come on top."""
    units = {str(row["unit"]) for _, row in rows if row.get("unit")}
    heads = (f"{plan} {'/'.join(sorted(units)) or 'games'}", "days of self-play", "95 % interval")
    print_lines(heads, [(name, *days_texts(row)) for name, row in rows], console)


def days_texts(row: Row) -> tuple[str, str]:
    """Return the days of a row with `plan_columns` and their 95 % interval as texts."""
    if row["plan_days"] is None:
        return "-", "-"
    low, high = row["plan_days_low"], row["plan_days_high"]
    return _days(row["plan_days"]), f"{_days(low)} or more" if high is None else f"{_days(low)}..{_days(high)}"


def _days(value: float) -> str:
    """Return days with three digits that count: 80.2, 1,234, 0.0412."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.3g}"


def _draw(asked: Asked, rows: Sequence[Row]) -> Path:
    """Draw the modes, fastest first; the variants of `direct` are in the table and in results.json."""
    from grove.bench.core.chart import (
        draw_comparison,
    )  # matplotlib takes half a second to import; processes of bench do not need it

    modes = [row for row in rows if row["mode"] in asked.modes]
    modes.sort(key=lambda row: -float(row["evaluations_per_second"]))
    here = machine.describe()
    probe = modes[0]["probe"]
    cache = "off" if not asked.search.cache else f"{asked.search.cache:,}"
    return draw_comparison(
        modes,
        asked.out / "chart.png",
        title=finding(modes),
        subtitle=f"{asked.game_spec}, {asked.network.model or asked.network.network}{_counted_in(modes[0])}; "
        f"{search_text(asked.search)}, cache {cache}\n{here['cpu']}, "
        f"{probe['delivered_cores']:.1f} cores delivered; {modes[0]['rounds']} rounds of paired slices",
    )


def finding(modes: Sequence[Row]) -> str:
    """Return in words what the rows of the modes, fastest first, show."""
    best, last = modes[0], modes[-1]
    if (by := best["ratio_to_direct"]) and best["mode"] != "direct":
        return f"{best['mode']} evaluates {_times(by)} as many positions as one at a time (direct)"
    if best is last:
        return f"{best['mode']}: {best['evaluations_per_second']:,.0f} evaluations a second"
    by = best["evaluations_per_second"] / max(last["evaluations_per_second"], 1e-9)
    return f"{best['mode']} is fastest, {_times(by)} as fast as {last['mode']}"


def _times(by: float) -> str:
    return f"{by:.0f} times" if by >= 9.5 else f"{by:.2g} times"


def _counted_in(row: Row) -> str:
    """Return what the chart's title says of a game that is not counted in games, so that no figure is taken for one."""
    units = counted(row)
    return "" if units == ["games"] else f", {' and '.join(f'{unit}/min' for unit in units)}"


def _write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return path
