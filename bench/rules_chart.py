"""Batching rules against ours by the number of worker processes, from comparisons that differ in nothing else.

Two loads: with games enough for full batches, and with fewer rows in flight than the largest batch.

    compare="grove bench compare --modes server-process,fixed --seconds 35"
    for w in 1 2 4 8 16 32; do $compare --workers $w --out runs/rules-$w; done
    for w in 1 2 4 8 16; do $compare --workers $w --games-per-worker 16 --out runs/few-$w; done
    python -m bench.rules_chart runs/rules-*/results.json runs/few-*/results.json --out rules.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.modes import FIXED
from bench.results import OURS

_COLOURS, _MARKS = ("#E69F00", "#56B4E9", "#D55E00", "#009E73", "#CC79A7"), "sv^oD"
_OURS, _INK, _FAINT = "#0072B2", "#222222", "#5F5F5F"

Rows = list[dict[str, Any]]
"""The rows of one comparison."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What to draw beside the results."""

    out: Path = Path("rules.png")
    """PNG to write."""
    max_batch: int = 512
    """Rows of the largest batch: what counts as few."""
    subtitle: str = ""
    """Machine and load."""


def draw(results: list[Path], asked: Rules) -> None:
    """Draw each rule's rate as a share of ours, medians of paired slices, against workers."""
    runs = sorted((json.loads(path.read_text()) for path in results), key=lambda rows: int(rows[0]["workers"]))
    few = [rows for rows in runs if _in_flight(rows) < asked.max_batch]
    panels = {
        f"rows enough for full batches of {asked.max_batch}": [rows for rows in runs if rows not in few],
        f"{few[0][0]['games_per_worker'] if few else 0} games a worker: fewer rows than a full batch": few,
    }
    panels = {title: some for title, some in panels.items() if some}
    figure = Figure(figsize=(10, 5.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for number, (title, some) in enumerate(panels.items()):
        axes = figure.add_axes((0.07 + 0.49 * number, 0.13, 0.34, 0.62))
        _draw_panel(axes, title, some)
    figure.text(0.02, 0.925, finding(runs), fontsize=14, weight="bold", color=_INK)
    figure.text(0.02, 0.865, asked.subtitle, fontsize=9.5, color=_FAINT)
    figure.savefig(asked.out)


def finding(runs: Sequence[Rows]) -> str:
    """Return in words how our rule stands: where another one's median is ahead is said, not rounded away."""
    ahead = [
        f"{row['mode']} at {row['workers']}"
        for rows in runs
        for row in rows
        if row.get("ours_by_rule") and row["ours_by_rule"] < 1
    ]
    if ahead:
        return f"Ours is not the fastest in {len(ahead)} cases: {', '.join(ahead[:3])}{' ...' * (len(ahead) > 3)}"
    return "Our rule is at least as fast as every other at every number of workers"


def _in_flight(rows: Rows) -> int:
    return int(rows[0]["workers"]) * int(rows[0]["games_per_worker"])


def _draw_panel(axes: Axes, title: str, runs: Sequence[Rows]) -> None:
    workers = [int(rows[0]["workers"]) for rows in runs]
    axes.axhline(100, color=_OURS, linewidth=2)
    ends: list[tuple[float, str, str]] = [(100.0, "ours", _OURS)]
    for name, colour, mark in zip(FIXED, _COLOURS, _MARKS, strict=True):
        found = [next(row for row in rows if row["mode"] == name) for rows in runs]
        shares = [100 / row["ours_by_rule"] for row in found]
        spread = [
            [share - 100 / row["ours_by_rule_high"] for share, row in zip(shares, found, strict=True)],
            [100 / row["ours_by_rule_low"] - share for share, row in zip(shares, found, strict=True)],
        ]
        axes.errorbar(workers, shares, spread, fmt=f"{mark}-", color=colour, linewidth=1.5, elinewidth=0.7, capsize=2)
        ends.append((shares[-1], name, colour))
    _label_ends(axes, workers[-1], ends)
    axes.set_xscale("log", base=2)
    axes.set_xticks(workers, [str(count) for count in workers])
    axes.set_xlim(workers[0] * 0.8, workers[-1] * 1.2)
    axes.set_ylim(0, 130)
    axes.set_xlabel("worker processes", color=_FAINT)
    axes.set_ylabel("evaluations/s, % of ours", color=_FAINT)
    axes.set_title(f"{title}\nours: {_ours(runs)} evaluations/s", fontsize=10, color=_INK, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)


def _ours(runs: Sequence[Rows]) -> str:
    rates = [row["evaluations_per_second"] for rows in runs for row in rows if row["mode"] == OURS]
    return f"{min(rates):,.0f} to {max(rates):,.0f}"


def _label_ends(axes: Axes, at: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write the names right of the last points, moved apart where they would overlap."""
    place = 200.0
    for share, name, colour in sorted(ends, reverse=True):
        place = min(share, place - 7)
        text = f"{name}" if name == "ours" else f"{name} {share:.0f} %"
        axes.annotate(
            text, (at, place), (8, 0), textcoords="offset points", va="center", color=colour, fontsize=9,
            annotation_clip=False,
        )  # fmt: skip


if __name__ == "__main__":
    draw(*tyro.cli(tuple[tyro.conf.Positional[list[Path]], Rules], config=(tyro.conf.OmitArgPrefixes,)))
