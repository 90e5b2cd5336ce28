"""From a comparison to the rows of results.json: the keys of summary.json and what only a comparison knows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from grove.bench.core.compare import Comparison, ModeFigures
from grove.bench.core.counting import total
from grove.bench.core.estimate import LEAST_GAMES, GameCost, game_cost, games_rate
from grove.bench.core.gpu_watch import merged
from grove.bench.core.modes import FIXED
from grove.bench.core.rounds import Round, check_enough, peak_share, probe_figures, quiet_rounds, ratio
from grove.bench.core.slices import Slice
from grove.records.record import GameRecord, read_folder
from grove.workers.pool import figures

Row = dict[str, Any]
OURS = "server-process"
"""The mode that a fixed rule differs from in nothing but the rule."""


def rows(outcome: Comparison, probe_limit: float) -> list[Row]:
    """Return one row per mode in the order asked for, then one per variant of `direct`, then what was not measured.

    Rates per minute are withheld (None, with a note) when too few games ended to tell what one costs. Raises PoolError,
    with the numbers, when too few rounds are left to report anything.
    """
    check_enough(outcome.rounds, probe_limit)
    cost = game_cost(measured.played for measured in [*outcome.modes, *outcome.variants])
    out = [_row(mode, outcome, probe_limit, "direct", cost) for mode in outcome.modes]
    chosen = next((mode.variant for mode in outcome.modes if mode.name == "direct"), "")
    out += [_row(variant, outcome, probe_limit, chosen, cost) for variant in outcome.variants]
    keys = dict.fromkeys(out[0])
    return out + [{**keys, "mode": name, "not_measured": why} for name, why in outcome.not_measured.items()]


def _row(mode: ModeFigures, outcome: Comparison, probe_limit: float, base: str, cost: GameCost | None) -> Row:
    counted = quiet_rounds(mode.rounds, probe_limit) or list(mode.rounds)
    name = mode.name
    slices = [done.slices[name] for done in counted]
    seconds = sum(part.seconds for part in slices)
    server = total(part.server for part in slices)
    workers = total(part.workers for part in slices)
    rates = [part.evaluations_per_second for part in slices]
    share, against = peak_share(counted, name), ratio(counted, name, base)
    ours = ratio(counted, OURS, name) if name in FIXED else None
    records = list(read_folder(mode.pool.pool.plan.games_folder))
    return {
        "mode": mode.name,
        "variant": mode.variant or None,
        **_summary(mode, {"seconds": seconds, "workers": workers, "server": server}, outcome, records),
        "peak": median(done.peak for done in counted) if share else None,
        "peak_share": share.median if share else None,
        "peak_share_low": share.low if share else None,
        "peak_share_high": share.high if share else None,
        "ratio_to_direct": against.median if against else None,
        "ratio_low": against.low if against else None,
        "ratio_high": against.high if against else None,
        "ours_by_rule": ours.median if ours else None,
        "ours_by_rule_low": ours.low if ours else None,
        "ours_by_rule_high": ours.high if ours else None,
        "cpu_us_per_evaluation": cpu_us_per_row(sum(part.cpu_seconds for part in slices), workers),
        "peak_cpu_us": median(done.peak_cpu for done in counted) * 1e6 if share else None,
        **merged(part.gpus for part in slices),
        "half_range": (max(rates) - min(rates)) / 2,
        "rounds": len(counted),
        "rounds_dropped": len(mode.rounds) - len(counted),
        "probe": probe_figures(counted),
        **_proof(records, mode),
        **per_minute(slices, cost, outcome.units),
        "not_measured": None,
    }


def _summary(mode: ModeFigures, played: figures.Counters, outcome: Comparison, records: Sequence[GameRecord]) -> Row:
    """Return the keys of summary.json: rates and counts of the counted slices alone."""
    pool, workers = mode.pool.pool, played["workers"]
    chosen = pool.sizes
    sizes = {"workers": chosen.workers, "games_per_worker": chosen.games, "groups": chosen.groups}
    row = figures.summary(pool, played, sizes, outcome.units)
    for key in ("games", "evaluations", "simulations", "moves", "timeouts"):
        row[key] = int(workers.get(key, 0))
    row["games_this_start"], row["games_left"] = row["games"], 0
    row["games_recorded"] = len(records)
    row["lane_idle"] = [max(0.0, 1 - lane["busy_s"] / played["seconds"]) for lane in played["server"].get("lanes", ())]
    if not pool.server_ready.get("backend"):
        row |= _own_network(mode, outcome)
    row["model_version"] = row["model_version"] or _models(records)
    return row


def _own_network(mode: ModeFigures, outcome: Comparison) -> Row:
    """Return device and dtype of a network in every worker."""
    network = mode.pool.pool.plan.network
    backend = outcome.peak["backend"]
    if mode.pool.pool.plan.evaluator == "local":
        return {"device": backend["device"], "dtype": network.dtype}
    on_cpu = network.device == "cpu" or str(backend["device"]).startswith("cpu")
    # One position a call on the CPU runs in fp32 unless bf16 was asked for.
    dtype = ("bf16" if network.dtype == "bf16" else "fp32") if on_cpu else backend["dtype"]
    return {"device": "cpu" if on_cpu else backend["device"], "dtype": dtype}


def per_minute(slices: Sequence[Slice], cost: GameCost | None, units: figures.Units) -> Row:
    """Return the rates per minute in all units of the game, the 95 % interval of the first, and what a game costs.

    They follow from simulations per second (`games_rate`), not from the games counted in the slices, which the column
    `games` holds. Without a cost all are None and `note` says why.
    """
    unit = next(iter(units))
    found = games_rate(slices, cost) if cost else None
    rates = {
        f"{name}_per_minute": found.median * count if found else None for name, count in {"games": 1, **units}.items()
    }
    short = f"fewer than {LEAST_GAMES} {unit} ended to tell how long they are: {unit}/min needs more --seconds"
    return {
        **rates,
        "games_per_minute_low": found.low if found else None,
        "games_per_minute_high": found.high if found else None,
        "simulations_per_game": cost.simulations if cost else None,
        "note": None if cost else short,
    }


def cpu_us_per_row(cpu_seconds: float, workers: dict[str, float]) -> float | None:
    """Return processor microseconds for each evaluation: unlike a rate, hardly touched by what else is running."""
    rows = workers.get("evaluations", 0)
    return cpu_seconds / rows * 1e6 if rows else None


def _models(records: Sequence[GameRecord]) -> str:
    found = {model for record in records for model in record.models if model}
    return ", ".join(sorted(found))


def _proof(records: Sequence[GameRecord], mode: ModeFigures) -> Row:
    """Return the columns that show that real search was done, and by all workers.

    They are samples and no rates, so they are taken of all that the mode played: a slow one has few decisions.
    """
    workers = mode.pool.pool.totals()
    sampled = workers.get("sampled_evaluations", 0)
    each = mode.pool.pool.games_by_worker()
    return {
        "distinct_evaluations": int(workers.get("distinct_evaluations", 0)),
        "sampled_evaluations": int(sampled),
        "sampled_decisions": int(workers.get("sampled_decisions", 0)),
        "distinct_share": workers.get("distinct_evaluations", 0) / sampled if sampled else None,
        "mean_visit_entropy": mean_visit_entropy(record.visits for record in records),
        "mean_game_moves": sum(len(record.moves) for record in records) / len(records) if records else None,
        "slowest_worker_games": min(each, default=0),
        "fastest_worker_games": max(each, default=0),
    }


def mean_visit_entropy(games: Iterable[Sequence[Sequence[Sequence[int]] | None]]) -> float | None:
    """Return the mean entropy, in nats, of the root visits of all searched decisions; None without any.

    ln(legal moves) would mean that the search spread its visits evenly: a broken search looks like that.
    """
    entropies = [_entropy([count for _, count in pairs]) for visits in games for pairs in visits if pairs]
    return sum(entropies) / len(entropies) if entropies else None


def _entropy(counts: Sequence[int]) -> float:
    whole = sum(counts)
    return -sum(count / whole * math.log(count / whole) for count in counts if count)


def raw_rounds(rounds: Sequence[Round], probe_limit: float) -> list[Row]:
    """Return what every round measured, dropped ones included, for run.json."""
    good = {id(done) for done in quiet_rounds(rounds, probe_limit)} if rounds else set()
    return [
        {
            "kept": id(done) in good,
            "peak": done.peak,
            "peak_cpu_us": done.peak_cpu * 1e6,
            "probes": [probe._asdict() for probe in done.probes],
            "idle_cpu": done.idle_cpu,
            "others_cpu": done.others_cpu,
            **{mode: _raw(part) for mode, part in done.slices.items()},
        }
        for done in rounds
    ]


def _raw(part: Any) -> Row:
    return {
        "seconds": part.seconds,
        "evaluations_per_second": part.evaluations_per_second,
        "simulations_per_second": part.simulations_per_second,
        "games": part.workers.get("games", 0),
        "cpu_seconds": part.cpu_seconds,
    }
