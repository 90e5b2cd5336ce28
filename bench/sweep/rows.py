"""From the visits of a sweep to one flat row a point, for results.csv and results.json."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from grove.bench.core.counting import total
from grove.bench.core.estimate import GameCost, LongRun, Played, game_cost, plan_columns
from grove.bench.core.gpu_watch import merged
from grove.bench.core.modes import FIXED, Asked
from grove.bench.core.probe import Probe
from grove.bench.core.results import OURS, cpu_us_per_row, per_minute
from grove.bench.core.rounds import mean_others, peak_share, probe_figures, ratio, usual_probe
from grove.bench.core.slices import Slice
from grove.bench.sweep.points import Point
from grove.bench.sweep.visits import MINE, Visit
from grove.inference_server.interface import stats as server_stats
from grove.workers.pool import figures

Row = dict[str, Any]

COLUMNS = {
    "mode": "server-process, server-thread, local, direct or a rule of another program (bench/core/modes.py)",
    "workers": "search workers: processes, or threads of the server's process",
    "games_per_worker": "games each worker plays at once",
    "games_derived": "whether they were left open and derived from the number of workers",
    "groups": "groups a worker's games are split into",
    "batch_size": "max batch: rows of the server's largest batch (max_batch)",
    "window_us": "microseconds the oldest row may wait while a lane is free (max_delay_us)",
    "lanes": "lanes of the server, 0 without one",
    "varied": "axis of this point: base, grid, or the setting that is varied, by its flag",
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
    "games_per_minute": "from simulations per second; None when too few games of the sweep ended to tell their length",
    "games_per_minute_low": "lower end of the 95 % interval",
    "games_per_minute_high": "upper end of the 95 % interval",
    "simulations_per_game": "descents that a finished game takes, of all points with as many a search together",
    "examples_per_game": "decisions searched in a finished game, mean",
    "evaluations": "rows that the network computed",
    "evaluations_per_second": "the same, per second",
    "evaluations_per_second_low": "the slowest counted slice",
    "evaluations_per_second_high": "the fastest counted slice",
    "simulations": "descents",
    "simulations_per_second": "the same, per second",
    "peak": "rows per second of the network alone, beside the counted slices",
    "peak_share": "evaluations per second by the peak of the same visit, median",
    "peak_share_low": "the lowest slice",
    "peak_share_high": "the highest slice",
    "ours_by_rule": "for rules of other programs: our evaluations per second by theirs, median of paired slices",
    "ours_by_rule_low": "the lowest pair",
    "ours_by_rule_high": "the highest pair",
    "gpu_percent_mean": "use of the GPUs; None without",
    "gpu_percent_max": "the highest look of two a second",
    "gpu_memory_mb_mean": "memory of all GPUs together",
    "gpu_memory_mb_max": "the highest look",
    "gpu_power_w_mean": "power of all GPUs together",
    "gpu_clock_mhz_mean": "clock of their multiprocessors",
    "cpu_percent": "processor time of workers and server, of all usable cores",
    "cpu_us_per_evaluation": "processor microseconds of a row",
    "requests": "requests that the server answered",
    "batches": "batches that the server computed",
    "mean_batch_rows": "rows of a batch",
    "fill": "rows by rows of the padded batches",
    "sent_full": "batches that left because they were full",
    "sent_all_blocked": "because every live client waited for an answer",
    "sent_quarter_full": "because they were a quarter full and a lane was free",
    "sent_delay": "because the oldest row had waited long enough",
    "sent_shutdown": "because the server was about to end",
    "sent_free": "under drain: because a lane was free",
    "sent_single": "under adaptive-wait: one request after a wait in vain",
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
    "others_cpu": "processors that other programs used meanwhile, mean; None where that is not known",
    "workers_restarted": "workers that died or hung and were started again",
    "start_s": "seconds until the pool was warm",
    "visits": "visits that count",
    "visits_dropped": "visits left out because the probe moved",
    "success": "whether the point could be measured",
    "failure": "why not, or why its last visit failed",
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
    ours = {_turns(visit): visit for visit in visits if visit.point.mode == OURS and not visit.failure}
    costs = _costs(visits)
    rows = []
    for found in filter(None, by_point.values()):
        counted = _kept(found, usual, asked.probe_limit)
        row = _of_point(asked, found[-1].point) | _of_visits(found, counted)
        if counted and usual is not None:
            cost = costs[counted[0].point.simulations]
            row |= _measured(counted, units, cost) | _machine(counted, usual) | _against_ours(counted, ours)
            row["note"] = "; ".join(filter(None, (row["note"], *_doubts(row, asked.probe_limit)))) or None
        rows.append({name: row.get(name) for name in COLUMNS} | row)
    return rows


def _costs(visits: Sequence[Visit]) -> dict[int, GameCost | None]:
    """Return simulations a search (`Point.simulations`) -> what a game takes with them, of all points together."""
    played: dict[int, list[Played]] = {}
    for visit in visits:
        if not visit.failure:
            played.setdefault(visit.point.simulations, []).append(Played(*visit.pool["played"]))
    return {simulations: game_cost(pools) for simulations, pools in played.items()}


def with_plan(rows: Sequence[Row], plan: LongRun | None) -> list[Row]:
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
    rounds = [visit.rounds()[0] for visit in visits if not visit.failure]
    return usual_probe(rounds) if rounds else None


def _kept(visits: Sequence[Visit], usual: Probe | None, limit: float) -> list[Visit]:
    """Return the visits that count: all that measured something where the probe moved in every one of them."""
    good = [visit for visit in visits if not visit.failure]
    return [visit for visit in good if usual and _moved(visit, usual) <= limit] or good


def _of_visits(visits: Sequence[Visit], counted: Sequence[Visit]) -> Row:
    return {
        "success": bool(counted),
        "visits": len(counted),
        "visits_dropped": sum(not visit.failure for visit in visits) - len(counted),
        "failure": next((visit.failure for visit in reversed(visits) if visit.failure), None),
    }


def _doubts(row: Row, limit: float) -> Iterator[str]:
    if row["probe_moved"] > limit:
        yield f"the burn probe moved by {row['probe_moved']:.0%}: the machine was busy, visit it again"
    if (row["peak_share"] or 0.0) > 1 + limit:
        yield f"{row['peak_share']:.0%} of the network alone cannot be: the machine's speed changed between the two"
    if row["workers_restarted"]:
        yield f"{row['workers_restarted']} workers were started again meanwhile, which cost time"


def _turns(visit: Visit) -> tuple[object, ...]:
    """Return what those have in common who took turns at their slices."""
    return (visit.time, visit.number, *visit.point.sizes)


def _against_ours(visits: Sequence[Visit], ours: Mapping[tuple[object, ...], Visit]) -> Row:
    """Return our rate by a rule's, of the slices in which they took turns; nothing for other modes or without ours."""
    rounds = [done for v in visits if v.point.mode in FIXED and _turns(v) in ours for done in v.paired(ours[_turns(v)])]
    found = ratio(rounds, OURS, MINE)
    names = ("ours_by_rule", "ours_by_rule_low", "ours_by_rule_high")
    return dict(zip(names, found, strict=True)) if found else {}


def _of_point(asked: Asked, point: Point) -> Row:
    """Return what is known of a point before anything is measured."""
    served = point.mode not in ("local", "direct")
    cards = re.search(r"\bcards=(\d+)", asked.game_spec)
    return {
        "mode": point.mode,
        "workers": point.workers,
        "games_per_worker": point.games_per_worker,
        "games_derived": point.games_derived,
        "batch_size": point.max_batch if served else None,
        "window_us": point.max_delay_us if served else None,
        "lanes": point.lanes,
        "varied": point.varied,
        "game": asked.game_spec,
        "cards": int(cards[1]) if cards else None,
        "batched": point.mode != "direct",
        "threads": point.mode == "server-thread",
        "worlds": asked.search.worlds,
        "simulations_per_search": point.simulations or asked.search.simulations,
    }


def _measured(visits: Sequence[Visit], units: figures.Units, cost: GameCost | None) -> Row:
    """Return the figures of the counted visits, all their slices together."""
    rounds = [done for visit in visits for done in visit.rounds()]
    slices = [done.slices[MINE] for done in rounds]
    workers, server = total(part.workers for part in slices), total(part.server for part in slices)
    seconds = sum(part.seconds for part in slices)
    rates = [part.evaluations_per_second for part in slices]
    found = figures.rates({"seconds": seconds, "workers": workers, "server": server}, None, units)
    share = peak_share(rounds, MINE)
    return {
        "seconds": seconds,
        **{name: found[name] for name in found if name == "unit" or name.endswith(("_per_minute", "_per_second"))},
        **{name: int(workers.get(name, 0)) for name in ("games", "evaluations", "simulations")},
        "examples": int(workers.get("decisions", 0)),
        "examples_per_game": _middle(visits, "mean_game_examples"),
        "evaluations_per_second_low": min(rates),
        "evaluations_per_second_high": max(rates),
        "peak": median(done.peak for done in rounds) if share else None,
        "peak_share": share.median if share else None,
        "peak_share_low": share.low if share else None,
        "peak_share_high": share.high if share else None,
        "cache_hit_rate": found["cache_hit_rate"],
        **_of_server(server),
        **_of_processors(slices, workers, rounds[0].probes[0].cores),
        **_proof(visits, workers),
        **per_minute(slices, cost, units),
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
        **merged(visit.gpus for visit in visits),
        "probe_one_core": probes["one_core"],
        "probe_all_cores": probes["all_cores"],
        "probe_moved": max(_moved(visit, usual) for visit in visits),
        "others_cpu": mean_others([done for visit in visits for done in visit.rounds()]),
        "workers_restarted": sum(visit.pool["workers_restarted"] for visit in visits),
        "start_s": median(visit.start_s for visit in visits),
    }


def _moved(visit: Visit, usual: Probe) -> float:
    return visit.rounds()[0].moved(usual)


def _shares(counts: Sequence[float]) -> list[float]:
    mean = sum(counts) / max(len(counts), 1)
    return [count / mean for count in counts] if mean else []


def _middle(visits: Sequence[Visit], name: str) -> float | None:
    known = [visit.pool[name] for visit in visits if visit.pool.get(name) is not None]
    return sum(known) / len(known) if known else None


def _most(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)
