"""The picture of a comparison with peers: simulations a second of the players, rows a second of the servers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from grove.bench.core.chart import short
from grove.bench.peers.results import FULL_NAMES, Row

# Okabe and Ito's palette, as in bench/core/chart.py.
_GROVE, _PEER, _INK, _FAINT = "#0072B2", "#A6A6A6", "#222222", "#5F5F5F"

# Inches.
_WIDTH, _BAR, _ABOVE, _HEAD, _BELOW, _LEFT, _RIGHT = 10.0, 0.42, 0.4, 0.5, 0.35, 2.6, 4.0
_TITLE_LETTERS, _SUBTITLE_LETTERS, _LINE = 88, 125, 0.24


def draw_peers(rows: Sequence[Row], path: Path, *, title: str, subtitle: str = "") -> Path:
    """Draw the measured rows of bench/peers/results.py to the PNG `path` and return it."""
    players = sorted((row for row in rows if row.get("kind") == "player"), key=_by_rate)
    servers = [row for row in rows if row.get("kind") == "batcher"]
    sizes = sorted({int(row["message_rows"]) for row in servers})
    panels = [("simulations a second", players)]
    for size in sizes:
        mine = sorted((row for row in servers if row["message_rows"] == size), key=_by_rate)
        panels.append((f"rows a second through a server, {_messages(size)}", mine))
    lines = textwrap.wrap(title, _TITLE_LETTERS)[:2]
    top = _ABOVE + _LINE * len(lines)
    height = top + sum(_HEAD + _BAR * len(part) for _, part in panels) + _BELOW
    figure = Figure(figsize=(_WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for heading, part in panels:
        top += _HEAD
        box = (_LEFT / _WIDTH, 1 - (top + _BAR * len(part)) / height, 1 - (_LEFT + _RIGHT) / _WIDTH,
               _BAR * len(part) / height)  # fmt: skip
        _draw_panel(figure.add_axes(box), heading, part)
        top += _BAR * len(part)
    figure.text(0.25 / _WIDTH, 1 - 0.2 / height, "\n".join(lines), color=_INK, fontsize=13, fontweight="bold", va="top")
    below = textwrap.shorten(subtitle, _SUBTITLE_LETTERS, placeholder="...")
    figure.text(0.25 / _WIDTH, 1 - (0.28 + _LINE * len(lines)) / height, below, color=_FAINT, fontsize=9.5, va="top")
    figure.savefig(path)
    return path


def _draw_panel(axes: Axes, heading: str, rows: Sequence[Row]) -> None:
    rates = [-_by_rate(row) for row in rows]
    colours = [_GROVE if _is_grove(row) else _PEER for row in rows]
    axes.barh(range(len(rows)), rates, 0.66, color=colours)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, max(rates))
    axes.set_yticks(range(len(rows)), [FULL_NAMES[row["mode"]] for row in rows], fontsize=10.5, color=_INK)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.text(0, 1, heading, transform=axes.transAxes, color=_INK, fontsize=10.5, fontweight="bold", va="bottom")
    for place, (row, rate) in enumerate(zip(rows, rates, strict=True)):
        label: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 10.5}
        axes.annotate(short(rate), (rate, place), xytext=(5, 0), color=_INK, fontweight="bold", **label)
        axes.annotate(_beside(row), (1, place), xycoords=("axes fraction", "data"), xytext=(58, 0), color=_FAINT,
                      **label | {"fontsize": 9.5})  # fmt: skip


def _beside(row: Row) -> str:
    """Return what stands at the right of a bar."""
    if row["kind"] == "batcher":
        return f"{short(row['requests_per_second'])} requests/s"
    parts = [f"{row['simulations_per_move']:.0f} a move"] if row["simulations_per_move"] else []
    if row["games_per_minute"] is not None:
        parts.append(f"{short(row['games_per_minute'])} games/min")
    if row["mean_game_moves"] is not None:
        parts.append(f"of {row['mean_game_moves']:.0f} moves")
    return ", ".join(parts)


def _messages(size: int) -> str:
    return "one row a message" if size == 1 else f"{size} rows a message"


def _is_grove(row: Row) -> bool:
    return row["mode"] == "grove" or str(row["mode"]).startswith("server-")


def _by_rate(row: Row) -> float:
    key = "simulations_per_second" if row["kind"] == "player" else "evaluations_per_second"
    return -float(row[key])
