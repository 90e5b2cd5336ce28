"""From the visits of a sweep to one flat row a point, for results.csv and results.json."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.counting import total
from bench.estimate import Plan, plan_columns
from bench.modes import Asked
from bench.probe import Probe
from bench.results import cpu_us_per_row, games_interval, withheld
from bench.rounds import Round, probe_figures, roof_share, usual_probe
from bench.slices import Slice
from bench.sweep_points import Point
from bench.visits import MINE, Visit
from inference_server import stats as server_stats
from workers import figures

Row = dict[str, Any]

COLUMNS = {
    "mode": "server-process, server-thread, local or direct (bench/modes.py)",
    "workers": "search workers: processes, or threads of the server's process",
    "games_per_worker": "games each worker plays at once",
    "groups": "groups a worker's games are split into",
    "batch_size": "batch cap: rows of the server's largest batch (max_batch)",
    "window_us": "microseconds the oldest row may wait while a lane is free (max_delay_us)",
    "lanes": "lanes of the server, 0 without one",
    "varied": "axis this point belongs to: base, workers, games_per_worker, max_batch, max_delay_us, lanes or grid",
    "game": "game and its parameters",
    "cards": "cards of a hand, in games that have them",
    "batched": "whether rows of many positions are evaluated together",
    "threads": "whether the workers are threads",
    "over_subscription": "threads that would like to run for each core: workers, and lanes that compute on the CPU",
    "worlds": "worlds of each decision",
    "simulations_per_search": "the setting: descents of each search",
    "games": "games finished in the counted slices",
    "examples": "decisions searched: training examples",
    "seconds": "seconds of the counted slices",
    "games_per_minute": "finished games; None when too few ended",
    "games_per_minute_low": "lower end of the 95 % interval",
    "games_per_minute_high": "upper end of the 95 % interval",
    "examples_per_game": "decisions searched for each finished game",
    "evaluations": "rows that the network computed",
    "evaluations_per_second": "the same, per second",
    "evaluations_per_second_low": "the slowest counted slice",
    "evaluations_per_second_high": "the fastest counted slice",
    "simulations": "descents",
    "simulations_per_second": "the same, per second",
    "roof": "rows per second of the network alone, beside the counted slices",
    "roof_share": "evaluations per second by the roof of the same visit, median",
    "gpu_percent_mean": "use of the GPUs; None without",
    "gpu_percent_max": "the highest look of two a second",
    "gpu_memory_mb_mean": "memory of all GPUs together",
    "gpu_memory_mb_max": "the highest look",
    "cpu_percent": "processor time of workers and server, of all usable cores",
    "cpu_us_per_evaluation": "processor microseconds of a row",
    "requests": "requests that the server answered",
    "batches": "batches that the server computed",
    "mean_batch_rows": "rows of a batch",
    "fill": "rows by rows of the padded batches",
    "sent_full": "batches that left because they were full",
    "sent_saturated": "because every live client waited for an answer",
    "sent_delay": "because the oldest row had waited long enough",
    "sent_drain": "because the server was about to end",
    "queue_ms": "median wait of a request before its batch left",
    "compute_ms": "median time of a batch in a lane",
    "cache_hit_rate": "lookups that hit; None without a cache",
    "distinct_share": "evaluated states that are distinct within one decision, of a sample",
    "mean_visit_entropy": "nats, mean over the searched decisions of finished games",
    "mean_game_moves": "moves of a finished game",
    "slowest_worker": "evaluations of the slowest worker by those of the mean one; 1 is even",
    "fastest_worker": "the same of the fastest",
    "worker_peak_rss_mb": "largest resident memory of a worker process",
    "server_peak_rss_mb": "the same of the server's process",
    "device": "what computed the network",
    "dtype": "its number format",
    "cores": "cores that this machine lets us use",
    "probe_one_core": "burn probe: operations per second of one core, median",
    "probe_all_cores": "the same of all cores together",
    "probe_moved": "largest relative change of a counted visit's probe against the whole sweep's median",
    "start_s": "seconds until the pool was warm",
    "visits": "visits that count",
    "visits_dropped": "visits left out because the probe moved",
    "success": "whether the point could be measured",
    "error": "why not, or why its last visit failed",
    "note": "what to know about the figures",
}
"""Name -> meaning and unit of every column, in their order; rates in other units of the game come on top."""


def sweep_rows(asked: Asked, points: Sequence[Point], visits: Sequence[Visit], units: figures.Units) -> list[Row]:
    """Return one row for every point that was visited, those of `points` first and in their order.

    Visits whose burn probe moved by more than the limit, against the median of the whole sweep, are left out as long
    as their point has another one.
    """
    by_point: dict[str, list[Visit]] = {point.key: [] for point in points}
    for visit in visits:
        by_point.setdefault(visit.point.key, []).append(visit)
    usual = _usual(visits)
    return [_row(asked, found, usual, units) for found in by_point.values() if found]


def with_plan(rows: Sequence[Row], plan: Plan | None) -> list[Row]:
    """Return the rows with the days that `plan` would take at each point."""
    return [row | plan_columns(plan, row) for row in rows] if plan else list(rows)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as CSV text under one line of names; None is empty, truth is ``true`` or ``false``."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    return out.getvalue()


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _usual(visits: Sequence[Visit]) -> Probe | None:
    rounds = [visit.rounds()[0] for visit in visits if not visit.error]
    return usual_probe(rounds) if rounds else None


def _row(asked: Asked, visits: Sequence[Visit], usual: Probe | None, units: figures.Units) -> Row:
    good = [visit for visit in visits if not visit.error]
    row = _of_point(asked, visits[-1].point) | {
        "success": bool(good),
        "error": next((visit.error for visit in reversed(visits) if visit.error), None),
    }
    if good and usual is not None:
        kept = [visit for visit in good if _moved(visit, usual) <= asked.probe_limit]
        row |= _measured(kept or good, units) | _machine(kept or good, usual) | {"visits_dropped": 0}
        if kept:
            row["visits_dropped"] = len(good) - len(kept)
        else:
            moved = f"the burn probe moved by {row['probe_moved']:.0%}: the machine was busy, visit it again"
            row["note"] = "; ".join(filter(None, (row.get("note"), moved)))
    ordered = {name: row.pop(name, None) for name in COLUMNS}
    return ordered | row


def _of_point(asked: Asked, point: Point) -> Row:
    """Return what is known of a point before anything is measured."""
    served = point.mode.startswith("server")
    cards = re.search(r"\bcards=(\d+)", asked.game_spec)
    return {
        "mode": point.mode,
        "workers": point.workers,
        "games_per_worker": point.games_per_worker,
        "batch_size": point.max_batch if served else None,
        "window_us": point.max_delay_us if served else None,
        "lanes": point.lanes,
        "varied": point.varied,
        "game": asked.game_spec,
        "cards": int(cards[1]) if cards else None,
        "batched": point.mode != "direct",
        "threads": point.mode == "server-thread",
        "worlds": asked.search.worlds,
        "simulations_per_search": asked.search.simulations,
    }


def _measured(visits: Sequence[Visit], units: figures.Units) -> Row:
    """Return the figures of the counted visits, all their slices together."""
    rounds = [done for visit in visits for done in visit.rounds()]
    slices = [done.slices[MINE] for done in rounds]
    workers, server = total(part.workers for part in slices), total(part.server for part in slices)
    seconds = sum(part.seconds for part in slices)
    games, rates = int(workers.get("games", 0)), [part.evaluations_per_second for part in slices]
    found = figures.rates({"seconds": seconds, "workers": workers, "server": server}, None, units)
    share = roof_share(rounds, MINE)
    return {
        "seconds": seconds,
        **{name: found[name] for name in found if name == "unit" or name.endswith(("_per_minute", "_per_second"))},
        **games_interval(slices),
        **{name: int(workers.get(name, 0)) for name in ("games", "evaluations", "simulations")},
        "examples": int(workers.get("decisions", 0)),
        "examples_per_game": workers.get("decisions", 0) / games if games else None,
        "evaluations_per_second_low": min(rates),
        "evaluations_per_second_high": max(rates),
        "roof": median(done.roof for done in rounds) if share else None,
        "roof_share": share.middle if share else None,
        "cache_hit_rate": found["cache_hit_rate"],
        **_of_server(server),
        **_of_processors(slices, workers, rounds[0].probes[0].cores),
        **_proof(visits, workers),
        **withheld(games, seconds, units),
    }


def _of_server(server: dict[str, Any]) -> Row:
    if "batches" not in server:
        return {}
    read = server_stats.summary(server)
    return {
        "requests": server["requests"],
        "batches": server["batches"],
        "mean_batch_rows": read["mean_batch_rows"],
        "fill": read["fill"],
        **{f"sent_{reason}": count for reason, count in server["reasons"].items()},
        "queue_ms": read["queue_us_p50"] / 1000,
        "compute_ms": read["compute_us_p50"] / 1000,
    }


def _of_processors(slices: Sequence[Slice], workers: dict[str, float], cores: int) -> Row:
    used = sum(part.cpu_seconds for part in slices)
    return {
        "cpu_percent": 100 * used / (cores * sum(part.seconds for part in slices)),
        "cpu_us_per_evaluation": cpu_us_per_row(used, workers),
        "cores": cores,
    }


def _proof(visits: Sequence[Visit], workers: dict[str, float]) -> Row:
    """Return the columns that show that real search was done, and by all workers alike."""
    sampled = workers.get("sampled_evaluations", 0)
    shares = [share for visit in visits for share in _shares(visit.pool["evaluations_by_worker"])]
    return {
        "distinct_share": workers.get("distinct_evaluations", 0) / sampled if sampled else None,
        "mean_visit_entropy": _middle(visits, "mean_visit_entropy"),
        "mean_game_moves": _middle(visits, "mean_game_moves"),
        "slowest_worker": min(shares, default=None),
        "fastest_worker": max(shares, default=None),
    }


def _machine(visits: Sequence[Visit], usual: Probe) -> Row:
    """Return sizes, memory, GPUs and what the machine delivered."""
    last, probes = visits[-1].pool, probe_figures([done for visit in visits for done in visit.rounds()])
    computing = last["lanes"] if str(last["device"]).startswith("cpu") else 0
    return {
        "games_per_worker": last["games"],
        "groups": last["groups"],
        "lanes": last["lanes"],
        "over_subscription": (last["workers"] + computing) / probes["cores"],
        "device": last["device"],
        "dtype": last["dtype"],
        **{name: _most(visit.pool[name] for visit in visits) for name in ("worker_peak_rss_mb", "server_peak_rss_mb")},
        **{name: _gpu(visits, name) for name in visits[-1].gpus},
        "probe_one_core": probes["one_core"],
        "probe_all_cores": probes["all_cores"],
        "probe_moved": max(_moved(visit, usual) for visit in visits),
        "start_s": median(visit.start_s for visit in visits),
        "visits": len(visits),
    }


def _gpu(visits: Sequence[Visit], name: str) -> float | None:
    values = [visit.gpus.get(name) for visit in visits]
    known = [value for value in values if value is not None]
    if not known:
        return None
    return max(known) if name.endswith("_max") else sum(known) / len(known)


def _moved(visit: Visit, usual: Probe) -> float:
    rounds: list[Round] = visit.rounds()
    return rounds[0].moved(usual)


def _shares(counts: Sequence[float]) -> list[float]:
    mean = sum(counts) / max(len(counts), 1)
    return [count / mean for count in counts] if mean else []


def _middle(visits: Sequence[Visit], name: str) -> float | None:
    known = [visit.pool[name] for visit in visits if visit.pool[name] is not None]
    return sum(known) / len(known) if known else None


def _most(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)
