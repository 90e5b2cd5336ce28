"""The picture of a sweep: a panel for every axis, a line for every mode, the roof above them, the finding as title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.chart import short

Row = Mapping[str, Any]

# Okabe and Ito's palette; markers differ too.
_STYLES = {
    "server-thread": ("#0072B2", "o"),
    "server-process": ("#D55E00", "s"),
    "local": ("#009E73", "^"),
    "direct": ("#7A7A7A", "D"),
}
_ROOF, _INK, _FAINT = "#CC79A7", "#222222", "#5F5F5F"
AXES = {
    "workers": ("workers", "workers (below: threads that want to run, per core)"),
    "games_per_worker": ("games_per_worker", "games per worker"),
    "max_batch": ("batch_size", "batch cap, rows"),
    "max_delay_us": ("window_us", "longest delay, ms"),
    "lanes": ("lanes", "lanes"),
}
"""Axis -> its column and how its panel is called."""

# Inches.
_HEIGHT, _ABOVE, _BELOW, _LEFT, _RIGHT, _GAP, _LEAST = 5.2, 1.15, 0.95, 0.8, 0.3, 0.35, 10.5
_WORKERS, _PER_VALUE, _LABELS, _PER_LETTER = 0.75, 0.62, 1.75, 0.108


def draw_sweep(rows: Sequence[Row], path: Path, *, subtitle: str = "") -> Path | None:
    """Draw the rows of one sweep (bench/sweep_rows.py) to the PNG `path`; None where nothing was measured.

    Whiskers reach from the slowest to the fastest slice. `subtitle` is for the machine and the settings.
    """
    good = [row for row in rows if row["success"]]
    if not good:
        return None
    panels = [axis for axis in AXES if axis == "workers" or len(values_of(rows, axis)) > 1]
    widths = [_width(axis, len(values_of(rows, axis))) for axis in panels]
    title, beside = finding(rows), _LEFT + _RIGHT + _LABELS + _GAP * (len(panels) - 1)
    width = max(_LEAST, _LEFT + _RIGHT + _PER_LETTER * len(title), beside + sum(widths))
    widths = [wide * (width - beside) / sum(widths) for wide in widths]
    figure = Figure(figsize=(width, _HEIGHT), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left, top = _LEFT, _top(good)
    for place, (axis, wide) in enumerate(zip(panels, widths, strict=True)):
        box = (left / width, _BELOW / _HEIGHT, wide / width, (_HEIGHT - _ABOVE - _BELOW) / _HEIGHT)
        axes = figure.add_axes(box)
        _frame(axes, rows, axis, top, first=place == 0)
        _draw_lines(axes, rows, axis, labels=place == 0)
        left += wide + _GAP + (_LABELS if place == 0 else 0.0)
    at = _LEFT / width
    figure.text(at, 1 - 0.40 / _HEIGHT, title, color=_INK, fontsize=13, fontweight="bold")
    figure.text(at, 1 - 0.68 / _HEIGHT, subtitle, color=_FAINT, fontsize=9.5)
    figure.savefig(path)
    return path


def finding(rows: Sequence[Row]) -> str:
    """Return in one line which point is the fastest, how near the roof it is, and what the most workers make of it."""
    good = [row for row in rows if row["success"]]
    best = max(good, key=_rate)
    share = f", {100 * best['roof_share']:.0f} % of the roof" if best.get("roof_share") else ""
    text = f"Fastest with {_people(best)}: {short(_rate(best))} evaluations/s{share}"
    line = panel_rows(good, "workers", best["mode"])
    crowd = line[-1] if line else best
    if crowd["workers"] <= best["workers"] or _rate(crowd) > 0.95 * _rate(best):
        return text
    return f"{text}; {crowd['workers']} workers reach {100 * _rate(crowd) / _rate(best):.0f} % of that"


def panel_rows(rows: Sequence[Row], axis: str, mode: str) -> list[Row]:
    """Return the points of one line: of a star those along the axis, of a grid the best of every value; ascending."""
    column = AXES[axis][0]
    mine = [row for row in rows if row["mode"] == mode and row["varied"] in ("base", "grid", axis)]
    best: dict[int, Row] = {}
    for row in mine:
        value = row[column]
        if value is not None and (value not in best or _rate(row) > _rate(best[value])):
            best[value] = row
    return [best[value] for value in sorted(best)]


def values_of(rows: Sequence[Row], axis: str) -> list[int]:
    """Return the values that an axis takes over all modes, ascending."""
    return sorted({row[AXES[axis][0]] for mode in _modes(rows) for row in panel_rows(rows, axis, mode)})


def _modes(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["mode"] for row in rows))


def _people(row: Row) -> str:
    """Return a point in words: its workers, its mode, and where it leaves the base."""
    count = row["workers"]
    kind = {"server-process": "process", "server-thread": "thread"}.get(row["mode"], f"{row['mode']} process")
    words = f"{count} search {kind}{'' if count == 1 else 'es' if kind.endswith('s') else 's'}"
    if row["varied"] in ("base", "workers"):
        return words
    column, name = AXES.get(row["varied"], ("batch_size", AXES["max_batch"][1]))
    return f"{words} and {name.partition(',')[0]} {_tick(row['varied'], row[column])}"


def _rate(row: Row) -> float:
    return float(row.get("evaluations_per_second") or 0.0)


def _top(rows: Sequence[Row]) -> float:
    return 1.12 * max(max(float(row["evaluations_per_second_high"]), float(row.get("roof") or 0.0)) for row in rows)


def _width(axis: str, values: int) -> float:
    return _WORKERS * max(values, 4) if axis == "workers" else _PER_VALUE * max(values, 2)


def _tick(axis: str, value: int) -> str:
    return f"{value / 1000:g}" if axis == "max_delay_us" else f"{value:,}"


def _frame(axes: Axes, rows: Sequence[Row], axis: str, top: float, *, first: bool) -> None:
    values = values_of(rows, axis)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_ylim(0, top)
    axes.set_xticks(range(len(values)), _ticks(rows, axis, values), color=_INK, fontsize=9.5)
    axes.set_xlabel(AXES[axis][1], color=_FAINT, fontsize=10, labelpad=6)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_FAINT, labelleft=first)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#999999")
    _draw_roof(axes, rows, named=first)
    if first:
        axes.set_title("evaluations per second", loc="left", color=_FAINT, fontsize=10, pad=8)


def _ticks(rows: Sequence[Row], axis: str, values: Sequence[int]) -> list[str]:
    """Return the texts under a panel; below the workers stands how many threads want each core."""
    texts = [_tick(axis, value) for value in values]
    if axis != "workers":
        return texts
    line = [row for mode in _modes(rows) for row in panel_rows(rows, axis, mode)]
    crowds = {row["workers"]: row["over_subscription"] for row in line if row.get("over_subscription")}
    below = [f"{crowds[value]:.2g}x" if value in crowds else "" for value in values]
    return [f"{text}\n{crowd}" for text, crowd in zip(texts, below, strict=True)]


def _draw_roof(axes: Axes, rows: Sequence[Row], *, named: bool) -> None:
    roofs = sorted(row["roof"] for row in rows if row.get("roof"))
    if not roofs:
        return
    roof = roofs[len(roofs) // 2]
    axes.axhline(roof, color=_ROOF, linewidth=1.6, linestyle=(0, (5, 3)), zorder=1)
    if named:
        text = f"roof: the network alone, {short(roof)}"
        _write(axes, text, (-0.45, roof), (0, 5), _ROOF)


def _draw_lines(axes: Axes, rows: Sequence[Row], axis: str, *, labels: bool) -> None:
    places = {value: place for place, value in enumerate(values_of(rows, axis))}
    ends = []
    for mode in _modes(rows):
        line = panel_rows(rows, axis, mode)
        good = [row for row in line if row["success"]]
        colour, marker = _STYLES[mode]
        at = [places[row[AXES[axis][0]]] for row in good]
        rates = [_rate(row) for row in good]
        below = [_rate(row) - row["evaluations_per_second_low"] for row in good]
        above = [row["evaluations_per_second_high"] - _rate(row) for row in good]
        axes.errorbar(at, rates, yerr=(below, above), color=colour, marker=marker, markersize=6, linewidth=1.8,
                      elinewidth=1, capsize=2.5, zorder=3)  # fmt: skip
        for row in line:
            if not row["success"]:
                axes.plot(places[row[AXES[axis][0]]], 0, "x", color=colour, markersize=8, clip_on=False, zorder=4)
                _write(axes, "failed", (places[row[AXES[axis][0]]], 0), (0, 7), colour, ha="center")
        if good:
            ends.append((rates[-1], mode, colour))
    if labels:
        _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each mode's name right of the panel, as high as its line ends or above the one below."""
    step = 0.055 * axes.get_ylim()[1]
    lowest, right = 0.0, axes.get_xlim()[1]
    for rate, mode, colour in sorted(ends):
        height = max(rate, lowest)
        lowest = height + step
        _write(axes, f"{mode}, {short(rate)}", (right, height), (2, -3), colour, weight="bold")


def _write(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], colour: str, **how: Any
) -> None:
    axes.annotate(
        text, at, xytext=shift, textcoords="offset points", color=colour, fontsize=9.5, annotation_clip=False, **how
    )
