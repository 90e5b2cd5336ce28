"""`grove bench compare`: maps the settings, keeps the folder, prints."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

import bench
from common.errors import SettingError
from game import check, load_game
from grove.settings import Compare, flatten
from inference_server.network_settings import resolve_network
from mcts import check_worlds
from workers.evaluators import row_spec


def compare(settings: Compare) -> int:
    """Compare the modes and write results.json, run.json and chart.png; returns the exit status."""
    modes, plan = bench.parse_modes(settings.modes), bench.parse_plan(settings.plan)
    game = load_game(settings.game)
    check(game, games=2)
    check_worlds(game, settings.search)
    network, why = resolve_network(settings.network, row_spec(game))
    settings = replace(settings, game=game.name, network=network)
    asked = bench.Asked(
        game_spec=game.name,
        modes=modes,
        seconds=settings.seconds,
        out=_new_folder(settings.out, game.name),
        seed=settings.seed,
        search=settings.search,
        pool=settings.pool,
        network=network,
        server=settings.server,
        probe_limit=settings.probe_limit,
    )
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"network: {network.model or network.network} ({why})")
    outcome = bench.run_comparison(asked, console.print)
    bench.write_header(asked, outcome, flatten(settings) | {"out": str(asked.out)}, sys.argv)
    rows = bench.rows(outcome, asked.probe_limit)
    if plan:
        rows = [row | bench.plan_columns(plan, row) for row in rows]
    paths = bench.write_results(asked, rows)
    console.print()
    bench.print_table(rows, console)
    if plan:
        console.print()
        bench.print_days(plan, [(row["mode"], row) for row in rows if row["mode"] in modes], console)
    console.print(f"\n{rows[0]['rounds']} rounds, {rows[0]['rounds_dropped']} dropped; {', '.join(map(str, paths))}")
    return 0


def _new_folder(out: str | None, game: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "".join(c if c.isalnum() else "-" for c in game)
    path = Path(out) if out else Path("runs") / f"compare-{name}-{stamp}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = next((item.name for item in path.iterdir()), None)
    except OSError as error:
        raise SettingError.of("out", str(path), f"it cannot be used ({error})", "give a folder to write to") from None
    if foreign:
        raise SettingError.of("out", str(path), f"it holds {foreign!r} already", "give a new or empty folder")
    return path
