"""The picture of a limit: every bound as a mark on one logarithmic scale, and where the whole stands under them."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from grove.bench.core.chart import short
from grove.bench.limit.bounds import Bound, LimitFigures, bounds, percent
from grove.bench.limit.verdict import Verdict

# Okabe and Ito's palette, as in bench/core/chart.py.
_WHOLE, _BOUND, _HEADROOM = "#0072B2", "#D55E00", "#7CC3EC"
_INK, _FAINT, _PALE = "#222222", "#5F5F5F", "#B5B5B5"

# Inches.
_WIDTH, _ROW, _ABOVE, _BELOW, _LEFT, _RIGHT = 10.0, 0.46, 1.05, 1.3, 2.75, 1.55
_GRID, _GAP = 1.2, 1.0
_MARGIN = 0.25
_TITLE_LETTERS, _TITLE_LINE, _TEXT_LETTERS = 90, 0.24, 124


def draw_limit(m: LimitFigures, verdict: Verdict, path: Path, *, title: str, subtitle: str = "") -> Path:
    """Draw the bounds of `m`, lowest on top, the whole as a line through them, and below them the network by lanes and
    rows of a batch, to the PNG `path`; return it."""
    rows = sorted(bounds(m), key=lambda bound: (not bound.used, bound.rate))
    lines = textwrap.wrap(title, _TITLE_LETTERS)[:2]
    below = _BELOW + _GRID + _GAP
    height = _ABOVE + _TITLE_LINE * len(lines) + _ROW * len(rows) + below
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left, width = _LEFT / _WIDTH, (_WIDTH - _LEFT - _RIGHT) / _WIDTH
    axes = figure.add_axes((left, below / height, width, _ROW * len(rows) / height))
    _frame(axes, rows, m)
    _draw_grid(figure.add_axes((left, _BELOW / height, width, _GRID / height)), m)
    for place, bound in enumerate(rows):
        _draw_bound(axes, place, bound, m, bound.name == verdict.lowest.name)
    _draw_whole(axes, m)
    _write_texts(figure, verdict, lines, subtitle)
    figure.savefig(path)
    return path


def _frame(axes: Axes, rows: list[Bound], m: LimitFigures) -> None:
    rates = [m.whole_rate, *(bound.rate for bound in rows)]
    axes.set_xscale("log")
    axes.set_xlim(min(rates) / 1.6, max(rates) * 2.4)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_yticks(range(len(rows)), [bound.label for bound in rows], fontsize=11)
    for label, bound in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(_INK if bound.used else _FAINT)
    steps = (1.0, 2.0, 5.0) if max(rates) < 60 * min(rates) else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("evaluations per second (rows computed by the network), logarithmic", color=_FAINT, fontsize=10)
    axes.grid(axis="x", which="major", color="#E6E6E6", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", which="both", colors=_FAINT, length=0)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)


def _draw_bound(axes: Axes, place: int, bound: Bound, m: LimitFigures, lowest: bool) -> None:
    """Draw the headroom from the whole to the bound, the bound's mark and rate, and the whole's share on the right."""
    colour = _BOUND if lowest else _INK if bound.used else _PALE
    if bound.used:
        reach = [m.whole_rate, bound.rate]
        axes.plot(reach, [place, place], color=_HEADROOM, linewidth=7, solid_capstyle="butt", zorder=2)
    axes.plot([bound.rate] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=4, solid_capstyle="butt", zorder=4)
    weight = "bold" if lowest else "normal"
    axes.annotate(
        short(bound.rate),
        (max(bound.rate, m.whole_rate), place),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        color=colour if bound.used else _FAINT,
        fontsize=11,
        fontweight=weight,
        zorder=5,
    )
    share = percent(m.whole_rate / bound.rate) if bound.used else "not in use"
    axes.annotate(
        share + (" of the lowest" if lowest else ""),
        (1.0, place),
        xycoords=("axes fraction", "data"),
        xytext=(94, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=colour if bound.used else _FAINT,
        fontsize=10,
        fontweight=weight,
    )


def _draw_whole(axes: Axes, m: LimitFigures) -> None:
    axes.axvline(m.whole_rate, color=_WHOLE, linewidth=2.4, zorder=3)
    left = axes.transAxes.inverted().transform(axes.transData.transform((m.whole_rate, 0)))[0] < 0.5
    axes.annotate(
        f"the whole: {short(m.whole_rate)}",
        (m.whole_rate, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-3 if left else 3, 5),
        textcoords="offset points",
        ha="left" if left else "right",
        color=_WHOLE,
        fontsize=11,
        fontweight="bold",
    )
    axes.annotate(
        "the whole has",
        (1.0, 1.0),
        xycoords="axes fraction",
        xytext=(94, 5),
        textcoords="offset points",
        ha="right",
        color=_FAINT,
        fontsize=10,
    )


def _draw_grid(axes: Axes, m: LimitFigures) -> None:
    """Draw the rates of the network alone over the rows of a batch, a line for each number of lanes."""
    counts = sorted({lanes for lanes, _, _ in m.tried})
    for place, count in enumerate(counts, start=1):
        line = sorted((rows, rate) for lanes, rows, rate in m.tried if lanes == count)
        label = f"{count} lane{'s' * (count > 1)}"
        axes.plot(*zip(*line, strict=True), "o-", color=_WHOLE, alpha=place / len(counts), markersize=3, label=label)
    _, rows, rate = max(m.tried, key=lambda one: one[2])
    axes.plot(rows, rate, "o", color=_BOUND, markersize=7)
    sizes = sorted({size for _, size, _ in m.tried})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, rate * 1.15)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_title("the network alone, evaluations/s", loc="left", color=_INK, fontsize=10)
    axes.set_xlabel("rows of a batch", color=_FAINT, fontsize=10)
    axes.tick_params(which="both", colors=_FAINT, length=0, labelsize=9)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9, labelcolor=_FAINT)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)


def _write_texts(figure: Figure, verdict: Verdict, lines: list[str], subtitle: str) -> None:
    height = figure.get_figheight()
    left = _MARGIN / _WIDTH
    figure.text(left, 1 - 0.2 / height, "\n".join(lines), color=_INK, fontsize=13, fontweight="bold", va="top")
    below = 0.3 + _TITLE_LINE * len(lines)
    subtitle = textwrap.shorten(subtitle, _TEXT_LETTERS, placeholder="...")
    figure.text(left, 1 - below / height, subtitle, color=_FAINT, fontsize=10, va="top")
    knob = verdict.knob
    text = f"Next: {knob.change}. Expected {short(knob.expected)} evaluations/s, {verdict.gain:.2f} times as many"
    text = "\n".join(textwrap.wrap(f"{text} (model: {knob.model}).", _TEXT_LETTERS)[:3])
    figure.text(left, 0.6 / height, text, color=_INK, fontsize=10, va="top")
