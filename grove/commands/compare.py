"""`grove bench compare`: maps the settings, keeps the folder, prints."""

from __future__ import annotations

import sys

from grove import bench
from grove.commands.console import text_console
from grove.commands.load import folder_of, make_new, resolve_load
from grove.run.settings import Compare, flatten


def compare(settings: Compare) -> int:
    """Compare the modes and write results.json, run.json and chart.png; returns the exit status."""
    modes, plan = bench.parse_modes(settings.modes), bench.parse_plan(settings.plan)
    _, settings, network = resolve_load(settings)
    asked = bench.Asked(
        game_spec=settings.game,
        modes=modes,
        seconds=settings.seconds,
        out=folder_of(settings, "compare"),
        seed=settings.seed,
        search=settings.search,
        pool=settings.pool,
        network=settings.network,
        server=settings.server,
        probe_limit=settings.probe_limit,
    )
    bench.pool_plans(asked)  # refuses what cannot work before a folder is made
    make_new(asked.out)
    console = text_console()
    console.print(network)
    outcome = bench.run_comparison(asked, console.print)
    bench.write_header(asked, outcome, flatten(settings) | {"out": str(asked.out)}, sys.argv)
    rows = bench.rows(outcome, asked.probe_limit)
    if plan:
        rows = [row | bench.plan_columns(plan, row) for row in rows]
    paths = bench.write_results(asked, rows)
    console.print()
    bench.print_table(rows, console)
    if warning := bench.busy_warning(outcome.others_cpu):
        console.print(warning)
    if plan:
        console.print()
        bench.print_days(plan, [(row["mode"], row) for row in rows if row["mode"] in modes], console)
    console.print(f"\n{rows[0]['rounds']} rounds, {rows[0]['rounds_dropped']} dropped; {', '.join(map(str, paths))}")
    return 0
