"""Rates of one load by the number of worker processes, from comparisons that differ in nothing else.

    python -m grove.bench.scaling docs/results/2026-11-24/blob-workers-*.json --evaluations-per-game 1340 --out
    scaling.png
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_LINE, _PEAK, _INK, _FAINT = "#0072B2", "#D55E00", "#222222", "#5F5F5F"


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What to draw beside the results."""

    evaluations_per_game: float
    """Of a long run: turns evaluations into games where a measurement is too short to count games."""
    out: Path = Path("scaling.png")
    """PNG to write."""
    subtitle: str = ""
    """Machine and load."""
    others: str = ""
    """A line of text about figures from elsewhere."""


def draw(results: list[Path], asked: Scaling) -> None:
    """Draw games per minute and rows per batch against workers."""
    rows = sorted((json.loads(path.read_text())[0] for path in results), key=lambda row: row["workers"])
    workers = [row["workers"] for row in rows]
    rates = [60 * row["evaluations_per_second"] / asked.evaluations_per_game for row in rows]
    peak = 60 * max(row["peak"] for row in rows) / asked.evaluations_per_game
    unit = rows[0].get("unit", "games")
    figure = Figure(figsize=(10, 4.6), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.2, 0.88, 0.56))
    axes.plot(workers, rates, "o-", color=_LINE, linewidth=2)
    for x, y, row in zip(workers, rates, rows, strict=True):
        text = f"{y:,.0f}\n{row['mean_batch_rows']:.0f} rows/batch"
        axes.annotate(text, (x, y), (0, -30), textcoords="offset points", ha="center", fontsize=9, color=_INK)
    axes.axhline(peak, color=_PEAK, linestyle="--")
    axes.text(workers[0], 1.02 * peak, f"the network alone: {peak:,.0f}", color=_PEAK)
    axes.set_xscale("log", base=2)
    axes.set_xticks(workers, [str(n) for n in workers])
    axes.set_xlim(workers[0] * 0.8, workers[-1] * 1.25)
    axes.set_ylim(0, 1.2 * peak)
    axes.set_xlabel("worker processes")
    axes.spines[["top", "right"]].set_visible(False)
    best = max(range(len(rates)), key=rates.__getitem__)
    title = f"{unit}/min by worker processes: most, {rates[best]:,.0f}, at {workers[best]}"
    figure.text(0.03, 0.92, title, fontsize=14, weight="bold", color=_INK)
    figure.text(0.03, 0.855, asked.subtitle, fontsize=9.5, color=_FAINT)
    figure.text(0.03, 0.03, asked.others, fontsize=9, color=_FAINT)
    figure.savefig(asked.out)


if __name__ == "__main__":
    draw(*tyro.cli(tuple[tyro.conf.Positional[list[Path]], Scaling], config=(tyro.conf.OmitArgPrefixes,)))
