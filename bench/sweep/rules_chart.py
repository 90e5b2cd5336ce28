"""Batching rules of other programs against ours over worker processes: a panel for every load of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from grove.bench.core.results import OURS
from grove.bench.sweep.chart import FAINT, INK, PER_LETTER, STYLES, label_ends
from grove.bench.sweep.finding import Row, at_loads, modes_of, rule_cases, rules_finding

# Inches.
_HEIGHT, _ABOVE, _BELOW, _LEFT, _RIGHT, _PANEL, _LABELS, _LEAST = 5.2, 1.5, 0.75, 0.8, 0.2, 3.6, 2.3, 10.0
_HEADROOM = 1.08
_ASIDE = 0.06
"""How far the marks of two rules stand apart, by the distance of two numbers of workers, so that whiskers show."""


def draw_rules(rows: Sequence[Row], path: Path, *, subtitle: str = "") -> Path | None:
    """Draw each rule's rate as a share of ours to the PNG `path`; None where no rule was paired with ours.

    Whiskers reach from the lowest to the highest pair of slices. `subtitle` is for the machine and the settings.
    """
    cases = rule_cases(rows)
    if not cases:
        return None
    loads = list(dict.fromkeys(map(_load, cases)))
    title = rules_finding(rows)
    width = max(_LEAST, _LEFT + _RIGHT + PER_LETTER * len(title), _LEFT + len(loads) * (_PANEL + _LABELS) + _RIGHT)
    figure = Figure(figsize=(width, _HEIGHT), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    top = _HEADROOM * max(100.0, *(100 / row["ours_by_rule_low"] for row in cases))
    for place, load in enumerate(loads):
        box = (_LEFT + place * (_PANEL + _LABELS)) / width, _BELOW / _HEIGHT
        axes = figure.add_axes((*box, _PANEL / width, (_HEIGHT - _ABOVE - _BELOW) / _HEIGHT))
        axes.set_ylim(0, top)
        _draw_panel(axes, [row for row in cases if _load(row) == load])
        ours = [row for row in at_loads(rows) if row["mode"] == OURS and row["success"] and _load(row) == load]
        if place == 0:
            axes.set_ylabel("evaluations/s, % of ours", color=FAINT)
        axes.set_title(_heading(cases, load, ours), loc="left", color=INK, fontsize=10)
    figure.text(_LEFT / width, 1 - 0.40 / _HEIGHT, title, color=INK, fontsize=13, fontweight="bold")
    figure.text(_LEFT / width, 1 - 0.68 / _HEIGHT, subtitle, color=FAINT, fontsize=9.5)
    figure.savefig(path)
    return path


def _load(row: Row) -> tuple[Any, ...]:
    """Return what the points of one panel have in common: all but rule and workers."""
    games = 0 if row["games_derived"] else row["games_per_worker"]
    return (games, row["batch_size"], row["window_us"], row["lanes"])


def _heading(cases: Sequence[Row], load: tuple[Any, ...], ours: Sequence[Row]) -> str:
    """Return what a panel shows; of the server's settings, those that differ between panels."""
    games, *server = load
    parts = [f"{games} games a worker" if games else "games enough to fill the lanes"]
    names = ("max batch {:,}", "delay {:,} us", "{} lanes")
    for place, (name, value) in enumerate(zip(names, server, strict=True), start=1):
        if len({_load(row)[place] for row in cases}) > 1:
            parts.append(name.format(value))
    rates = [row["evaluations_per_second"] for row in ours]
    second = f"\nours: {min(rates):,.0f} to {max(rates):,.0f} evaluations/s" if rates else ""
    return ", ".join(parts) + second


def _draw_panel(axes: Axes, cases: Sequence[Row]) -> None:
    workers = sorted({row["workers"] for row in cases})
    axes.axhline(100, color=STYLES[OURS][0], linewidth=2)
    ends = [(100.0, "ours", STYLES[OURS][0])]
    modes = modes_of(cases)
    for place, mode in enumerate(modes):
        aside = _ASIDE * (place - (len(modes) - 1) / 2)
        found = sorted((row for row in cases if row["mode"] == mode), key=lambda row: int(row["workers"]))
        at = [workers.index(row["workers"]) + aside for row in found]
        shares = [100 / row["ours_by_rule"] for row in found]
        below = [share - 100 / row["ours_by_rule_high"] for share, row in zip(shares, found, strict=True)]
        above = [100 / row["ours_by_rule_low"] - share for share, row in zip(shares, found, strict=True)]
        colour, mark = STYLES[mode]
        axes.errorbar(at, shares, (below, above), fmt=f"{mark}-", color=colour, linewidth=1.5, elinewidth=0.7,
                      capsize=2)  # fmt: skip
        ends.append((shares[-1], f"{mode}, {shares[-1]:.0f} %", colour))
    axes.set_xlim(-0.3, len(workers) - 0.7)
    axes.set_xticks(range(len(workers)), [str(count) for count in workers])
    axes.set_xlabel("worker processes", color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    label_ends(axes, ends)
