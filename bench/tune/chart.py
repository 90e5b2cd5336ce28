"""The picture of a tuning: every trial as a bar beside the default, the best first, with the flags that make it."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from grove.bench.tune.found import Trial, Tuned

# Okabe and Ito's palette, as in bench/core/chart.py.
_AHEAD, _OTHER, _CUT, _AGAIN = "#0072B2", "#7CC3EC", "#C9C9C9", "#D55E00"
_INK, _FAINT = "#222222", "#5F5F5F"
_MOST = 20
"""Trials shown."""

# Inches.
_WIDTH, _BAR, _ABOVE, _BELOW, _MARGIN = 12.0, 0.34, 1.4, 1.05, 0.25
_PER_LETTER, _MOST_LETTERS = 0.072, 110
_TITLE_LINE, _TITLE_LETTERS = 0.26, 92


def draw_tuned(tuned: Tuned, path: Path, *, title: str, subtitle: str = "") -> Path:
    """Draw the trials to the PNG `path` and return it; at least one was played."""
    played = sorted((trial for trial in tuned.trials if trial.pairs), key=lambda trial: -trial.gain)
    shown = played[:_MOST]
    names = [_name(tuned, trial) for trial in shown]
    indent = _MARGIN + 0.1 + _PER_LETTER * max(map(len, names))
    lines = textwrap.wrap(title, _TITLE_LETTERS)
    above = _ABOVE + _TITLE_LINE * (len(lines) - 1)
    height = above + _BAR * len(shown) + _BELOW
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    box = (indent / _WIDTH, _BELOW / height, (_WIDTH - indent - 2 * _MARGIN) / _WIDTH, _BAR * len(shown) / height)
    axes = figure.add_axes(box)
    _frame(axes, tuned, shown, names)
    for place, trial in enumerate(shown):
        _draw_trial(axes, tuned, place, trial)
    _draw_default(axes)
    left, below_title = _MARGIN / _WIDTH, 1 - (above - _ABOVE) / height
    for place, line in enumerate(lines):
        top = 1 - (0.40 + _TITLE_LINE * place) / height
        figure.text(left, top, line, color=_INK, fontsize=14, fontweight="bold")
    figure.text(left, below_title - 0.66 / height, subtitle, color=_FAINT, fontsize=10)
    figure.text(left, below_title - 0.88 / height, f"default: {tuned.default}", color=_FAINT, fontsize=10)
    figure.text(left, 0.2 / height, _legend(played, shown, tuned), color=_FAINT, fontsize=10)
    figure.savefig(path)
    return path


def _name(tuned: Tuned, trial: Trial) -> str:
    """Return the flags by which a trial differs from the default."""
    text = trial.choice.flags(tuned.default) if trial.choice else ""
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 3]}..."


def _frame(axes: Axes, tuned: Tuned, shown: list[Trial], names: list[str]) -> None:
    ends = [trial.gain for trial in shown] + [gain.high for gain in tuned.gains.values()]
    axes.set_xlim(0, 1.12 * max(1.0, *ends))
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), names, color=_INK, fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set_xlabel("simulations per second by the default's, in paired slices", color=_FAINT, fontsize=10, labelpad=6)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", colors=_FAINT, length=0)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color("#999999")


def _draw_trial(axes: Axes, tuned: Tuned, place: int, trial: Trial) -> None:
    """Draw one bar with its figure, and over it what it came to when it was measured again."""
    again = next((tuned.gains[name] for name, one in tuned.finalists.items() if one is trial and tuned.gains), None)
    colour = _CUT if trial.state == "cut" else _AHEAD if again else _OTHER
    axes.barh(place, trial.gain, height=0.66, color=colour, zorder=2)
    end = trial.gain
    if again:
        axes.plot([again.low, again.high], [place, place], color=_AGAIN, linewidth=2.2, zorder=4)
        axes.plot([again.median], [place], "o", color=_AGAIN, markersize=6, zorder=5)
        end = max(end, again.high)
    text = f"{again.median:.2f}x" if again else f"{trial.gain:.2f}x"
    axes.annotate(text, (end, place), xytext=(6, 0), textcoords="offset points", va="center",
                  color=_AGAIN if again else _INK, fontsize=9.5, fontweight="bold" if again else "normal", zorder=6,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})  # fmt: skip


def _draw_default(axes: Axes) -> None:
    axes.axvline(1.0, color=_INK, linewidth=1.4, linestyle=(0, (5, 3)), zorder=3)
    axes.annotate("the default", (1.0, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 5),
                  textcoords="offset points", ha="center", color=_INK, fontsize=10)  # fmt: skip


def _legend(played: list[Trial], shown: list[Trial], tuned: Tuned) -> str:
    parts = ["Bars: short trials" + (", grey: cut early" if any(trial.state == "cut" for trial in shown) else "")]
    if tuned.gains:
        parts.append("point and line: measured again in rounds, median and interval")
    if len(played) > len(shown):
        parts.append(f"{len(played) - len(shown)} slower ones left out")
    return "; ".join(parts)
