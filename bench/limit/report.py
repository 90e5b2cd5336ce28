"""What is left of a search for the limit: limit.json, limit.png, and a table with the verdict under it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from grove.bench.core.probe import MOVED
from grove.bench.core.report import print_lines
from grove.bench.limit.bounds import Bound, LimitFigures, bounds, percent, processor_costs
from grove.bench.limit.limit import LimitAsked, LimitFound, median_of
from grove.bench.limit.verdict import Verdict
from grove.common import machine
from grove.workers.pool.figures import search_text

_HEADS = ("limit", "evaluations/s", "the whole has", "cpu us/row", "measured as")


def write_limit(
    asked: LimitAsked, found: LimitFound, verdict: Verdict, settings: dict[str, Any], command: Sequence[str]
) -> list[Path]:
    """Write limit.json and limit.png below `asked.out` and return their paths."""
    from grove.bench.limit.chart import (
        draw_limit,  # matplotlib takes half a second to import; processes of bench do without
    )

    content = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(command),
        **machine.provenance(),
        "settings": settings,
        "verdict": verdict.figures(),
        "bounds": [asdict(bound) for bound in bounds(found.measured)],
        "measured": asdict(found.measured),
        "pool": found.pool_kind,
        "network": found.network,
        "rounds": [
            {"kept": done in found.counted, "probes": [probe._asdict() for probe in done.probes], **done.parts}
            for done in found.rounds
        ],
        "rounds_dropped": len(found.rounds) - len(found.counted),
        "slice_seconds": found.slice_s,
        "probe_moved": found.moved,
    }
    path = asked.out / "limit.json"
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    picture = draw_limit(
        found.measured,
        verdict,
        asked.out / "limit.png",
        title=f"{asked.game_spec}: {verdict.text}",
        subtitle=f"{asked.network.model or asked.network.network}, {search_text(asked.search)}; "
        f"{pool_text(found)}; {machine.cpu_model()}, {found.measured.cores} cores",
    )
    return [path, picture]


def print_limit(found: LimitFound, verdict: Verdict, console: Console) -> None:
    """Print the table of bounds, the verdict, the setting, and what speaks against trusting them."""
    m = found.measured
    lines = [_line(found, bound, verdict) for bound in sorted(bounds(m), key=lambda bound: bound.rate)]
    whole = ("the whole", f"{m.whole_rate:,.0f}", "100 %", f"{1e6 * m.whole_cpu:.1f}", _whole_text(found))
    print_lines(_HEADS, [*lines, whole], console)
    console.print()
    print_lines(*_grid(m), console)
    console.print(f"\n{verdict.text}", soft_wrap=True)
    knob = verdict.knob
    console.print(
        f"next: {knob.change}; expected {knob.expected:,.0f} evaluations/s, {verdict.gain:.2f} times as many "
        f"(model: {knob.model})",
        soft_wrap=True,
    )
    others = m.cores - m.available_cores
    if m.idle_cores is None:
        console.print("how much other programs used is not known: a CPU quota hides it", soft_wrap=True)
    elif others > MOVED * m.cores:
        console.print(f"beware: other programs used {others:.1f} of {m.cores} cores while the whole played")
    if warning := _moved_warning(found):
        console.print(warning, soft_wrap=True)


def _moved_warning(found: LimitFound) -> str:
    """Return which rounds were dropped, or that none could be relied on; nothing when all were quiet."""
    if found.moved <= MOVED:
        return ""
    dropped = len(found.rounds) - len(found.counted)
    which = f"{dropped} of {len(found.rounds)} rounds are dropped" if dropped else "no round was quiet, so all count"
    return (
        f"beware: {which}: the burn probe beside them moved by up to {percent(found.moved)}, the machine changed its "
        "speed or had other work; measure again on a quiet machine"
    )


def _grid(m: LimitFigures) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heads and lines of the network alone by lanes and rows of a batch."""
    rates = {(lanes, rows): rate for lanes, rows, rate in m.tried}
    best = max(rates, key=lambda shape: rates[shape])
    counts, sizes = (sorted({shape[place] for shape in rates}) for place in (0, 1))

    def cell(lanes: int, rows: int) -> str:
        return f"{rates[lanes, rows]:,.0f}{' <-' * ((lanes, rows) == best)}" if (lanes, rows) in rates else "-"

    heads = ("the network alone, evaluations/s", *(f"{rows} rows" for rows in sizes))
    return heads, [(f"{n} lane{'s' * (n > 1)}", *(cell(n, rows) for rows in sizes)) for n in counts]


def pool_text(found: LimitFound) -> str:
    """Return workers, games and groups in words."""
    m = found.measured
    groups = f" in {m.groups} groups" if m.groups > 1 else ""
    kind = found.pool_kind if m.workers == 1 else {"thread": "threads", "process": "processes"}[found.pool_kind]
    return f"{m.workers} {kind} x {m.games_per_worker} games{groups}"


def _line(found: LimitFound, bound: Bound, verdict: Verdict) -> tuple[str, ...]:
    m = found.measured
    share = percent(m.whole_rate / bound.rate) if bound.used else "not in use"
    mark = " <- lowest" if bound.name == verdict.lowest.name else ""
    costs: dict[str, float] = {str(part): cost for part, cost in processor_costs(m).items()}
    costs |= {"wire": m.wire_cpu, "network": m.network_cpu, "cores": sum(costs.values())}
    cpu = costs.get(bound.name)
    return (
        bound.label + mark,
        f"{bound.rate:,.0f}",
        share,
        "-" if cpu is None else f"{1e6 * cpu:.1f}",
        _measured_as(found, bound.name),
    )


def _measured_as(found: LimitFound, name: str) -> str:
    m, median_of_rounds = found.measured, partial(median_of, [done.parts for done in found.counted])
    if name == "network":
        backend = found.network["backend"]
        return f"{found.network['lanes']} lanes of {found.network['bucket']} rows, {backend['dtype']} {backend['kind']}"
    if name == "search":
        return f"a thread {m.search_rate:,.0f}, on {m.cores} cores"
    if name == "wire":
        return f"{median_of_rounds('wire', 'messages_per_second'):,.0f} messages/s of {m.wire_rows} rows"
    if name == "writer":
        games, size = median_of_rounds("writer", "games_per_second"), median_of_rounds("writer", "megabytes_per_second")
        return f"{games:,.0f} games/s, {size:.0f} MB/s a writer"
    return "cores / cpu of all parts" if name == "cores" else "workers / time of search and record"


def _whole_text(found: LimitFound) -> str:
    m = found.measured
    text = f"{pool_text(found)}; {m.batch_rows:.0f} rows a batch, lanes idle {percent(m.lane_idle)}"
    return f"{text}, workers wait {percent(m.waiting)}"
