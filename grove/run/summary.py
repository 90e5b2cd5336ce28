"""What a command says at its end: the figures of summary.json."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from grove.common.numbers import amount, duration, percent, reason_shares
from grove.workers.pool.figures import counted


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of the keys of summary.json that are present and say something, in reading order."""
    shown: list[tuple[str, str, Any]] = [
        (counted(summary)[0], "games", amount),
        ("time", "seconds", duration),
        *((f"{unit}/min", f"{unit}_per_minute", amount) for unit in counted(summary)),
        ("evaluations/s", "evaluations_per_second", amount),
        ("simulations/s", "simulations_per_second", amount),
        ("distinct evaluations", "distinct_evaluations", amount),
        ("rows/batch", "mean_batch_rows", amount),
        ("fill", "fill", percent),
        ("sent when", "dispatch_reasons", _all_reasons),
        ("cache hits", "cache_hit_rate", lambda rate: "off" if rate is None else percent(rate)),
        ("model", "model_version", str),
        ("device", "device", str),
        ("dtype", "dtype", str),
        ("pool", "pool", str),
        ("worker memory", "worker_peak_rss_mb", lambda mb: f"{amount(mb)} MB peak"),
        ("server memory", "server_peak_rss_mb", lambda mb: f"{amount(mb)} MB peak"),
    ]
    return [(name, text(summary[key])) for name, key, text in shown if _says_something(summary, key)]


def _says_something(summary: Mapping[str, Any], key: str) -> bool:
    """Return whether a run has the figure: one without a server has no batches, and no model where none computes."""
    value = summary.get(key)
    if key == "cache_hit_rate":
        return key in summary  # None: the cache is off
    return any(value.values()) if isinstance(value, Mapping) else value not in (None, "")


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the figures of a finished run (the keys of summary.json) as a table for rich."""
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for row in summary_rows(summary):
        table.add_row(*map(Text, row))
    return table


def print_summary(summary: Mapping[str, Any], folder: str, out: TextIO | None = None) -> None:
    """Write the summary and the run folder to `out` (default stdout); plain when that is no terminal."""
    console = Console(file=sys.stdout if out is None else out, highlight=False)
    if console.is_terminal:
        console.print(Padding(summary_table(summary), (0, 0, 1, 1), expand=False))
    else:
        lines = "".join(f"{name:22}{text}\n" for name, text in summary_rows(summary))
        console.print(Text(lines), end="", soft_wrap=True)
    console.print(
        Text.assemble((" " if console.is_terminal else ""), ("run folder", "dim"), "  ", folder), soft_wrap=True
    )


def _all_reasons(counts: Mapping[str, int]) -> str:
    pairs = reason_shares(counts, most=len(counts))
    return ", ".join(f"{name.removeprefix('sent: ')} {share}" for name, share in pairs)
