"""The picture a report draws itself: a run's rates over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from grove.bench.core.chart import short
from grove.workers.pool.figures import counted

# Of Okabe and Ito's palette, told apart by people with any kind of colour blindness.
_BLUE, _ORANGE, _INK, _FAINT = "#0072B2", "#D55E00", "#222222", "#5F5F5F"
_STEADY = 0.1
"""Relative difference of the two halves of a run below which it counts as steady."""

Row = Mapping[str, Any]


def draw_run(metrics: Sequence[Row], path: Path) -> str:
    """Draw the rates of a run over time to `path`; return the caption, or "" when there are too few intervals.

    `metrics`: the lines of metrics.jsonl; a resumed run's clock begins anew, and its parts are drawn one after another.
    """
    rows = _timeline(metrics)
    if len(rows) < 2:
        return ""
    unit = counted(rows[-1][1])[0]
    key = f"{unit}_per_minute"
    title = _trend([row for _, row in rows], key, unit)
    scale, name = (60.0, "minutes") if rows[-1][0] >= 180 else (1.0, "seconds")
    rows = [(at / scale, row) for at, row in rows]
    figure = Figure(figsize=(10, 4.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _line(upper, rows, key, (f"{unit} per minute", _BLUE))
    _line(lower, rows, "evaluations_per_second", ("evaluations per second", _ORANGE))
    lower.set_xlabel(f"{name} of playing", color=_FAINT)
    figure.suptitle(title, x=0.01, ha="left", color=_INK, fontsize=13, fontweight="bold")
    figure.savefig(path)
    return title


def _timeline(metrics: Sequence[Row]) -> list[tuple[float, Row]]:
    """Return (seconds of playing since the first start, row) of every interval that lasted."""
    out: list[tuple[float, Row]] = []
    offset = former = 0.0
    for row in metrics:
        seconds = row.get("seconds")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool):
            continue
        if seconds < former:  # the run was resumed
            offset += former
        former = seconds
        if seconds > 0.5:
            out.append((offset + seconds, row))
    return out


def _trend(rows: Sequence[Row], key: str, unit: str) -> str:
    """Return in words how a rate went; each interval counts by how long it was."""
    half = len(rows) // 2
    mean, early, late = (_mean(part, key) for part in (rows, rows[:half], rows[half:]))
    if math.isnan(mean + early + late):
        return f"{unit}/min, known in a part of the run only"
    if abs(late - early) <= _STEADY * max(early, late):
        return f"{short(mean)} {unit}/min, steady"
    way = "up" if late > early else "down"
    return f"{short(mean)} {unit}/min, {way} from {short(early)} in the first half to {short(late)} in the second"


def _mean(rows: Sequence[Row], key: str) -> float:
    known = [(_value(row, key), float(row.get("interval_s") or 1.0)) for row in rows]
    known = [(value, seconds) for value, seconds in known if not math.isnan(value)]
    whole = sum(seconds for _, seconds in known)
    return sum(value * seconds for value, seconds in known) / whole if whole else math.nan


def _value(row: Row, key: str) -> float:
    """Return a figure of an interval; NaN, which is drawn as a gap, where it has none."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def _line(axes: Axes, rows: Sequence[tuple[float, Row]], key: str, look: tuple[str, str]) -> None:
    name, colour = look
    times, values = [at for at, _ in rows], [_value(row, key) for _, row in rows]
    known = [value for value in values if math.isfinite(value)]
    axes.plot(times, values, color=colour, linewidth=1.8, marker="o" if len(rows) < 40 else "", markersize=3.5)
    axes.set_ylim(0, 1.12 * max([*known, 1.0]))
    axes.set_xlim(0, 1.08 * times[-1])
    if math.isfinite(values[-1]):
        axes.annotate(short(values[-1]), (times[-1], values[-1]), xytext=(6, 0), textcoords="offset points",
                      va="center", color=colour, fontweight="bold", fontsize=10)  # fmt: skip
    axes.set_title(name, loc="left", fontsize=10, color=colour)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.tick_params(colors=_FAINT, length=0, labelsize=9)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
