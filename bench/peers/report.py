"""What is left of a comparison with peers: results.json, run.json, chart.png and two tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from grove.bench.core.report import form, print_lines
from grove.bench.core.results import raw_rounds
from grove.bench.peers.peers import PeersAsked, PeersOutcome
from grove.bench.peers.results import FULL_NAMES, Row, finding
from grove.common import machine
from grove.workers.pool.figures import search_text

PACKAGES = ("jax", "jaxlib", "mctx", "pgx", "open_spiel", "mosec", "litserve")
_PLAYERS = ("player", "simulations/s", "lowest..highest", "evaluations/s", "games/min", "moves/game", "sims/move")
_MORE = ("entropy", "cpu us/row")
_BATCHERS = ("server", "rows/message", "rows/s", "lowest..highest", "requests/s", "cpu us/row", "Grove by it")


def write_peers(
    wanted: PeersAsked, outcome: PeersOutcome, found: Sequence[Row], settings: dict[str, Any], command: Sequence[str]
) -> list[Path]:
    """Write run.json, results.json and chart.png; return their paths."""
    from grove.bench.peers.chart import draw_peers  # matplotlib takes half a second to import

    asked = wanted.asked
    head = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(command),
        **machine.provenance(),
        "packages": {name: _version(name) for name in PACKAGES},
        "settings": settings,
        "parameters": outcome.network.parameters,
        "idle_cpu": outcome.idle_cpu,
        "others_cpu": outcome.others_cpu,
        "peak": outcome.peak,
        "slice_seconds": outcome.slice_s,
        "probe_limit": asked.probe_limit,
        "not_measured": outcome.not_measured,
        "players": raw_rounds(outcome.players, asked.probe_limit),
        "batchers": raw_rounds(outcome.batchers, asked.probe_limit),
    }
    paths = [_write(asked.out / "run.json", head), _write(asked.out / "results.json", list(found))]
    subtitle = (
        f"{asked.game_spec}, {asked.network.network}, {search_text(asked.search)} a move; "
        f"{machine.cpu_model()}, {machine.usable_cores()} cores; network alone {_peak(found):,.0f} rows/s"
    )
    return [*paths, draw_peers(found, asked.out / "chart.png", title=finding(found), subtitle=subtitle)]


def print_peers(found: Sequence[Row], console: Console) -> None:
    """Print the tables of players and servers, their rounds, and what was not measured."""
    for kind, (heads, texts) in (("player", player_table(found)), ("batcher", server_table(found))):
        if texts:
            print_lines(heads, texts, console)
            first = next(row for row in found if row.get("kind") == kind)
            console.print(f"{first['rounds']} rounds, {first['rounds_dropped']} dropped\n")
    for row in found:
        if row["not_measured"]:
            console.print(f"{FULL_NAMES[row['mode']]}: not measured: {row['not_measured']}", soft_wrap=True)
        elif row.get("note"):
            console.print(f"{FULL_NAMES[row['mode']]}: {row['note']}", soft_wrap=True)


def player_table(found: Sequence[Row]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Return headings and one line of texts a player, with what each makes by every peer."""
    players = [row for row in found if row.get("kind") == "player"]
    peers = [name for name, spread in players[0]["against"].items() if spread] if players else []
    heads = (*_PLAYERS, *_MORE, *(f"by {name}" for name in peers))
    return heads, [_player(row, peers) for row in players]


def server_table(found: Sequence[Row]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Return headings and one line of texts a batching server and size of its messages."""
    servers = [row for row in found if row.get("kind") == "batcher"]
    return _BATCHERS, [_batcher(row, servers) for row in servers]


def _player(row: Row, peers: Sequence[str]) -> tuple[str, ...]:
    return (
        FULL_NAMES[row["mode"]],
        f"{row['simulations_per_second']:,.0f}",
        f"{row['simulations_low']:,.0f}..{row['simulations_high']:,.0f}",
        f"{row['evaluations_per_second']:,.0f}",
        form(row["games_per_minute"], "{:,.0f}"),
        form(row["mean_game_moves"], "{:.1f}"),
        form(row["simulations_per_move"], "{:.1f}"),
        form(row["mean_visit_entropy"], "{:.2f}"),
        form(row["cpu_us_per_evaluation"], "{:.0f}"),
        *(_ratio(row["against"].get(peer)) for peer in peers),
    )


def _batcher(row: Row, servers: Sequence[Row]) -> tuple[str, ...]:
    beside = [other for other in servers if other["message_rows"] == row["message_rows"]]
    ours: Row = next((other["against"] for other in beside if other["mode"] == "grove"), {})
    return (
        FULL_NAMES[row["mode"]],
        str(row["message_rows"]),
        f"{row['evaluations_per_second']:,.0f}",
        f"{row['evaluations_low']:,.0f}..{row['evaluations_high']:,.0f}",
        f"{row['requests_per_second']:,.0f}",
        form(row["cpu_us_per_evaluation"], "{:.0f}"),
        _ratio(ours.get(row["mode"])),
    )


def _ratio(spread: Row | None) -> str:
    return f"{spread['median']:.2f}x ({spread['low']:.2f}..{spread['high']:.2f})" if spread else "-"


def _peak(found: Sequence[Row]) -> float:
    return float(next(row["peak"] for row in found if row.get("kind") == "player"))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return path
