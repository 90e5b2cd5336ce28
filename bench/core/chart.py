"""The picture of a comparison: evaluations per second of each mode as bars, the peak as a line, ratios in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from grove.bench.core.modes import FAILED, FIXED
from grove.workers.pool.figures import counted

Row = Mapping[str, Any]

# Okabe and Ito's palette, told apart by people with any kind of colour blindness; lightness differs too.
_SERVED, _LOCAL, _DIRECT, _RULE, _FAILED = "#0072B2", "#7CC3EC", "#A6A6A6", "#009E73", "#CC79A7"
_PEAK, _INK, _FAINT = "#D55E00", "#222222", "#5F5F5F"

# Inches.
_WIDTH, _BAR, _ABOVE, _BELOW, _MARGIN, _BETWEEN, _PER_LETTER = 10.0, 0.5, 1.45, 0.75, 0.25, 0.15, 0.09
_DARK = (_SERVED, _RULE)
"""Colours that white text can be read on."""


def draw_comparison(rows: Sequence[Row], path: Path, *, title: str, subtitle: str = "") -> Path:
    """Draw the rows of one comparison to the PNG `path` and return it.

    Keys of a row: `mode`, `evaluations_per_second` (needed), `games_per_minute` or the same in the `unit` of the game
    (workers/pool/figures.py), `ratio_to_direct`, `peak` (rows per second; the same in all rows), `peak_share` (of
    paired slices), `half_range` (half the width of the spread, in evaluations per second), `distinct_share` and
    `mean_visit_entropy` (that real search was done). The first row is drawn on top.
    `subtitle` is for the settings and the machine, at most two lines.
    """
    peak = next((float(row["peak"]) for row in rows if row.get("peak")), None)
    columns = table_columns(rows, peak)
    height = _ABOVE + _BAR * len(rows) + _BELOW
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left = _MARGIN + _PER_LETTER * max(len(str(row["mode"])) for row in rows) + 0.1
    right = _WIDTH - _MARGIN - sum(map(_column_width, columns))
    axes = figure.add_axes((left / _WIDTH, _BELOW / height, (right - left) / _WIDTH, _BAR * len(rows) / height))
    _frame(axes, rows, peak)
    _draw_bars(axes, rows)
    _draw_legend(figure, rows)
    if peak is not None:
        _draw_peak(axes, peak)
    _write_columns(axes, columns)
    _write_head(figure, title, subtitle)
    figure.savefig(path)
    return path


def table_columns(rows: Sequence[Row], peak: float | None) -> dict[str, list[str]]:
    """Return heading -> one text per row for the columns beside the bars; a column that no row fills is left out."""
    columns = {
        "of the peak": [_share(row, peak) for row in rows],
        "vs direct": [_number(row.get("ratio_to_direct"), "{:.1f}x") for row in rows],
    }
    for unit in counted(rows[0]):
        columns[f"{unit}/min"] = [_number(row.get(f"{unit}_per_minute"), "{:,.0f}") for row in rows]
    columns["distinct"] = [_number(_percent(row.get("distinct_share")), "{:.0f} %") for row in rows]
    columns["entropy"] = [_number(row.get("mean_visit_entropy"), "{:.2f}") for row in rows]
    return {heading: texts for heading, texts in columns.items() if any(texts)}


def short(value: float) -> str:
    """Return a rate in about three digits: 0.25, 7.5, 950, 12.3k, 123k, 1.2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.0f}{letter}" if scaled >= 99.95 or scaled == int(scaled) else f"{scaled:.1f}{letter}"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def _share(row: Row, peak: float | None) -> str:
    """Return the paired share of the peak where rounds gave one, else the quotient of the two rates."""
    share = row.get("peak_share")
    if share is None:
        share = _rate(row) / peak if peak else None
    return "" if share is None else f"{100 * share:.0f} %"


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _number(value: float | None, form: str) -> str:
    return form.format(value) if value is not None else ""


def _rate(row: Row) -> float:
    return float(row["evaluations_per_second"])


def _colour(mode: str) -> str:
    if mode.startswith("direct"):
        return _DIRECT
    if mode in FIXED or mode in FAILED:
        return _RULE if mode in FIXED else _FAILED
    return _LOCAL if mode.startswith("local") else _SERVED


def _frame(axes: Axes, rows: Sequence[Row], peak: float | None) -> None:
    axes.set_xlim(0, 1.06 * max([*map(_rate, rows), peak or 0.0, 1.0]))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [str(row["mode"]) for row in rows], color=_INK, fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlabel("evaluations per second (rows computed by the network)", color=_FAINT, fontsize=10, labelpad=6)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", colors=_FAINT, length=0)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color("#999999")


def _draw_bars(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw each bar with its rate: inside at its foot where it is long enough to hold it, else right of it."""
    half = axes.get_xlim()[1] / 2
    for place, row in enumerate(rows):
        rate, error = _rate(row), float(row.get("half_range") or 0.0)
        colour = _colour(str(row["mode"]))
        axes.barh(place, rate, height=0.62, color=colour, zorder=2)
        if error:
            axes.errorbar(rate, place, xerr=error, color=_INK, capsize=3, linewidth=1, zorder=4)
        inside = rate > half / 2
        axes.annotate(
            short(rate),
            (0.0 if inside else rate + error, place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color="white" if inside and colour in _DARK else _INK,
            fontsize=11,
            fontweight="bold",
            zorder=5,
        )


def _draw_legend(figure: Figure, rows: Sequence[Row]) -> None:
    """Say below the columns what the colours mean, where modes are shown whose names do not tell."""
    kinds = {
        _SERVED: "this server",
        _RULE: "this server, another program's batching rule",
        _FAILED: "designs that were given up",
    }
    shown = {_colour(str(row["mode"])) for row in rows}
    if shown & {_RULE, _FAILED}:
        handles = [Patch(color=colour, label=text) for colour, text in kinds.items() if colour in shown]
        corner = (1 - 0.5 * _MARGIN / _WIDTH, 0.06 / figure.get_figheight())
        figure.legend(
            handles=handles, loc="lower right", bbox_to_anchor=corner, fontsize=9, frameon=False, labelcolor=_INK
        )


def _draw_peak(axes: Axes, peak: float) -> None:
    axes.axvline(peak, color=_PEAK, linewidth=1.6, linestyle=(0, (5, 3)), zorder=3)
    axes.annotate(
        f"peak: the network alone, {short(peak)}",
        (peak, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(2, 5),
        textcoords="offset points",
        ha="right",
        color=_PEAK,
        fontsize=10,
    )


def _write_columns(axes: Axes, columns: Mapping[str, Sequence[str]]) -> None:
    points = 0.0
    for heading, texts in columns.items():
        points += 72 * _column_width(heading)
        _write_cell(axes, heading, (1.0, 1.0), (points, 5), _FAINT)
        for place, text in enumerate(texts):
            _write_cell(axes, text, (1.0, 1.0 - (place + 0.5) / len(texts)), (points, 0), _INK)


def _column_width(heading: str) -> float:
    return _BETWEEN + 0.078 * max(len(heading), 7)


def _write_cell(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], colour: str) -> None:
    """Write `text` ending at the axes fraction `at`, moved by `shift` points."""
    axes.annotate(
        text,
        at,
        xycoords="axes fraction",
        xytext=shift,
        textcoords="offset points",
        ha="right",
        va="center" if shift[1] == 0 else "baseline",
        color=colour,
        fontsize=10,
    )


def _write_head(figure: Figure, title: str, subtitle: str) -> None:
    height = figure.get_figheight()
    left = _MARGIN / _WIDTH
    figure.text(left, 1 - 0.40 / height, title, color=_INK, fontsize=14, fontweight="bold")
    figure.text(left, 1 - 0.50 / height, subtitle, color=_FAINT, fontsize=10, va="top", linespacing=1.4)
