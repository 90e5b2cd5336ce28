"""The picture of a sweep: a panel for every axis, a line for every mode, the peak above them, the finding as title."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from grove.bench.core.chart import short
from grove.bench.sweep.finding import (
    AXES,
    Row,
    finding,
    modes_of,
    number,
    panel_rows,
    rank_column,
    swept_axes,
    tick,
    values_of,
)

# Okabe and Ito's palette, and darker ones for rules of other programs; markers differ too.
STYLES = {
    "server-thread": ("#0072B2", "o"),
    "server-process": ("#D55E00", "s"),
    "local": ("#009E73", "^"),
    "direct": ("#7A7A7A", "D"),
    "full-only": ("#E69F00", "v"),
    "time-out-only": ("#56B4E9", "<"),
    "drain": ("#5B3A8C", ">"),
    "1ms": ("#8C564B", "P"),
    "adaptive-wait": ("#6B8E23", "X"),
}
"""Mode -> colour and marker."""
_PEAK, INK, FAINT = "#CC79A7", "#222222", "#5F5F5F"

# Inches.
_HEIGHT, _ABOVE, _BELOW, _LEFT, _RIGHT, _GAP, _LEAST = 5.4, 1.4, 0.95, 0.8, 0.3, 0.35, 10.5
_WORKERS, _PER_VALUE, _LABELS, PER_LETTER = 0.75, 0.62, 2.3, 0.108


def draw_sweep(rows: Sequence[Row], path: Path, *, subtitle: str = "") -> Path | None:
    """Draw the rows of one sweep (bench/sweep/rows.py) to the PNG `path`; None where nothing was measured.

    Heights are shares of the peak measured beside each point, as points are compared; rates where there is none.
    Whiskers reach from the slowest to the fastest slice. `subtitle` is for the machine and the settings.
    """
    good = [row for row in rows if row["success"]]
    if not good:
        return None
    panels = swept_axes(rows)
    widths = [_width(axis, len(values_of(rows, axis))) for axis in panels]
    title, beside = finding(rows), _LEFT + _RIGHT + _LABELS + _GAP * (len(panels) - 1)
    width = max(_LEAST, _LEFT + _RIGHT + PER_LETTER * len(title), beside + sum(widths))
    widths = [wide * (width - beside) / sum(widths) for wide in widths]
    figure = Figure(figsize=(width, _HEIGHT), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left, scale = _LEFT, _Scale.of(good)
    for place, (axis, wide) in enumerate(zip(panels, widths, strict=True)):
        box = (left / width, _BELOW / _HEIGHT, wide / width, (_HEIGHT - _ABOVE - _BELOW) / _HEIGHT)
        axes = figure.add_axes(box)
        _frame(axes, rows, axis, scale, first=place == 0)
        _draw_lines(axes, rows, axis, scale, labels=place == 0)
        left += wide + _GAP + (_LABELS if place == 0 else 0.0)
    at = _LEFT / width
    figure.text(at, 1 - 0.40 / _HEIGHT, title, color=INK, fontsize=13, fontweight="bold")
    figure.text(at, 1 - 0.68 / _HEIGHT, subtitle, color=FAINT, fontsize=9.5)
    figure.savefig(path)
    return path


class _Scale(NamedTuple):
    """What the heights mean."""

    column: str
    factor: float
    """100 for per cent of the peak, 1 for rates."""
    top: float

    @classmethod
    def of(cls, good: Sequence[Row]) -> _Scale:
        column = rank_column(good)
        factor = 100.0 if column == "peak_share" else 1.0
        highest = max(number(row, f"{column}_high") for row in good)
        return cls(column, factor, 1.12 * factor * max(highest, 1.0))

    def height(self, row: Row, end: str = "") -> float:
        """Return the height of a row, or of the `_low` or `_high` end of its whisker."""
        return self.factor * number(row, self.column + end)

    @property
    def title(self) -> str:
        """What the heights are."""
        return "evaluations per second" + ", % of the peak beside each point" * (self.factor > 1)

    def text(self, row: Row) -> str:
        """Return a row's height in words."""
        rate = short(number(row, "evaluations_per_second"))
        return f"{self.height(row):.0f} %, {rate}/s" if self.factor > 1 else rate


def _width(axis: str, values: int) -> float:
    return _WORKERS * max(values, 4) if axis == "workers" else _PER_VALUE * max(values, 2)


def _frame(axes: Axes, rows: Sequence[Row], axis: str, scale: _Scale, *, first: bool) -> None:
    values = values_of(rows, axis)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_ylim(0, scale.top)
    axes.set_xticks(range(len(values)), _ticks(rows, axis, values), color=INK, fontsize=9.5)
    axes.set_xlabel(AXES[axis][1], color=FAINT, fontsize=10, labelpad=6)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=FAINT, labelleft=first)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#999999")
    if scale.column == "peak_share":
        axes.axhline(100, color=_PEAK, linewidth=1.6, linestyle=(0, (5, 3)), zorder=1)
    if first:
        axes.set_title(scale.title, loc="left", color=FAINT, fontsize=10, pad=22)
        _name_peak(axes, [row["peak"] for row in rows if row["success"] and row["peak"]])


def _ticks(rows: Sequence[Row], axis: str, values: Sequence[int]) -> list[str]:
    """Return the texts under a panel; below the workers stands how many threads want each core."""
    texts = [tick(axis, value) for value in values]
    if axis != "workers":
        return texts
    line = [row for mode in modes_of(rows) for row in panel_rows(rows, axis, mode) if row.get("over_subscription")]
    line.sort(key=lambda row: float(row["over_subscription"]))  # of several modes the most crowded one is shown
    crowds = {row["workers"]: row["over_subscription"] for row in line}
    below = [f"{crowds[value]:.2g}x" if value in crowds else "" for value in values]
    return [f"{text}\n{crowd}" for text, crowd in zip(texts, below, strict=True)]


def _name_peak(axes: Axes, peaks: Sequence[float]) -> None:
    """Say what the dashed line is above the panel, where no point lies."""
    if peaks:
        ends = " to ".join(dict.fromkeys((short(min(peaks)), short(max(peaks)))))
        text = f"dashed: the peak, the network alone, {ends}/s meanwhile"
        _write(axes, text, (0, 1), (0, 7), _PEAK, xycoords="axes fraction")


def _draw_lines(axes: Axes, rows: Sequence[Row], axis: str, scale: _Scale, *, labels: bool) -> None:
    places = {value: place for place, value in enumerate(values_of(rows, axis))}
    ends = []
    for mode in modes_of(rows):
        line = panel_rows(rows, axis, mode)
        good = [row for row in line if row["success"]]
        colour, marker = STYLES[mode]
        at = [places[row[AXES[axis][0]]] for row in good]
        heights = [scale.height(row) for row in good]
        below = [scale.height(row) - scale.height(row, "_low") for row in good]
        above = [scale.height(row, "_high") - scale.height(row) for row in good]
        axes.errorbar(at, heights, yerr=(below, above), color=colour, marker=marker, markersize=6, linewidth=1.8,
                      elinewidth=1, capsize=2.5, zorder=3)  # fmt: skip
        for row in line:
            if not row["success"]:
                axes.plot(places[row[AXES[axis][0]]], 0, "x", color=colour, markersize=8, clip_on=False, zorder=4)
                _write(axes, "failed", (places[row[AXES[axis][0]]], 0), (0, 7), colour, ha="center")
        if good:
            ends.append((heights[-1], f"{mode}, {scale.text(good[-1])}", colour))
    if labels:
        label_ends(axes, ends)


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write the texts of (height, text, colour) right of the panel, each as near to its height as the others allow."""
    ends, right = sorted(ends), axes.get_xlim()[1]
    heights = spread([height for height, _, _ in ends], 0.055 * axes.get_ylim()[1])
    for height, (_, text, colour) in zip(heights, ends, strict=True):
        _write(axes, text, (right, height), (2, -3), colour, weight="bold")


def spread(wanted: Sequence[float], step: float) -> list[float]:
    """Return heights from 0 on, `step` or more apart, near the ascending `wanted` ones: crowds around their means."""
    crowds: list[list[float]] = []  # of each text, what its height would be if it were the lowest
    for place, height in enumerate(wanted):
        crowds.append([height - place * step])
        while len(crowds) > 1 and fmean(crowds[-2]) > fmean(crowds[-1]):
            crowds[-2:] = [crowds[-2] + crowds[-1]]
    lowest = [max(fmean(crowd), 0.0) for crowd in crowds for _ in crowd]
    return [height + place * step for place, height in enumerate(lowest)]


def _write(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], colour: str, **how: Any) -> None:
    how = {"fontsize": 9.5, "annotation_clip": False, **how}
    axes.annotate(text, at, xytext=shift, textcoords="offset points", color=colour, **how)
