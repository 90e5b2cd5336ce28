"""From counters to figures, one meaning everywhere: the live view, metrics.jsonl, summary.json and `bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grove.inference_server.interface import stats as server_stats
from grove.mcts import SearchSettings
from grove.workers.pool.pool import Pool

Counters = dict[str, Any]
Units = Mapping[str, int]
"""What one finished game counts as (`Game.units`), e.g. ``{"matches": 1, "rounds": 18}``."""
_RATE = "_per_minute"


def counters(pool: Pool, seconds: float) -> Counters:
    """Return the pool's monotone counters at `seconds` of playing: workers' totals and the server's snapshot."""
    return {"seconds": seconds, "workers": pool.totals(), "server": dict(pool.server_stats)}


def rates(later: Counters, earlier: Counters | None, units: Units) -> dict[str, Any]:
    """Return the figures of an interval, or of all so far."""
    start = earlier or {"seconds": 0.0, "workers": {}, "server": {}}
    seconds = max(later["seconds"] - start["seconds"], 1e-9)
    done = {name: value - start["workers"].get(name, 0) for name, value in later["workers"].items()}
    lookups = done.get("cache_lookups", 0)
    return {
        **_per_minute(60 * done.get("games", 0) / seconds, units),
        "evaluations_per_second": done.get("evaluations", 0) / seconds,
        "simulations_per_second": done.get("simulations", 0) / seconds,
        "cache_hit_rate": done.get("cache_hits", 0) / lookups if lookups else None,
        **_server_figures(later["server"], start["server"]),
    }


def _per_minute(games: float, units: Units) -> dict[str, Any]:
    """Return the rates of finished games (whatever a game is) and of what they count as; `unit` names a game."""
    counts = {"games": 1, **units}
    return {"unit": next(iter(units)), **{unit + _RATE: games * count for unit, count in counts.items()}}


def counted(row: Mapping[str, Any]) -> list[str]:
    """Return the units in which people read the rates per minute of `row`, the name of a finished game first."""
    unit = row.get("unit", "games")
    others = (name.removesuffix(_RATE) for name in row if name.endswith(_RATE))
    return [unit, *(name for name in others if name not in ("games", unit))]


def search_text(search: SearchSettings) -> str:
    """Return in words how much is searched for each decision."""
    simulations = f"{search.simulations} simulations"
    if search.worlds == 1:
        return simulations
    return (
        f"{search.worlds} worlds x {simulations}"
        if search.simulations_per == "world"
        else (f"{simulations} shared by {search.worlds} worlds")
    )


def _server_figures(later: Counters, earlier: Counters) -> dict[str, Any]:
    if "batches" not in later:
        return {}
    # A server that was started again counts from zero.
    same = "batches" in earlier and earlier["epoch"] == later["epoch"]
    part = server_stats.difference(later, earlier) if same else later
    figures = server_stats.summary(part)
    return {
        "mean_batch_rows": figures["mean_batch_rows"],
        "fill": figures["fill"],
        "dispatch_reasons": {str(k): int(v) for k, v in part["reasons"].items()},
        "queue_ms": figures["queue_us_p50"] / 1000,
        "compute_ms": figures["compute_us_p50"] / 1000,
        **{
            f"{kind}_ms_p{percent}": figures[f"{kind}_us_p{percent}"] / 1000
            for kind in ("queue", "compute")
            for percent in (90, 99)
        },
        "batch_sizes": _trimmed(part["batch_sizes"]),
        "lane_idle": figures["idle_shares"],
    }


def _trimmed(counts: list[int]) -> list[int]:
    """Return `counts` without the zeros at its end."""
    return counts[: max((k + 1 for k, count in enumerate(counts) if count), default=0)]


def summary(pool: Pool, played: Counters, sizes: dict[str, Any], units: Units) -> dict[str, Any]:
    """Return the keys of summary.json: figures of the playing time `played`, warm-up left out."""
    totals = pool.totals()
    figures = rates(played, None, units)
    backend = pool.server_ready.get("backend", {})
    sampled = totals.get("sampled_evaluations", 0)
    server_rss = pool.server_stats.get("peak_rss_mb")
    return {
        "games": pool.scheduler.finished,
        "games_left": pool.scheduler.left,
        "games_this_start": int(totals.get("games", 0)),
        "timeouts": int(totals.get("timeouts", 0)),
        "moves": int(totals.get("moves", 0)),
        "seconds": round(played["seconds"], 3),
        "unit": figures["unit"],
        **{key: value for key, value in figures.items() if key.endswith((_RATE, "_per_second"))},
        "evaluations": int(totals.get("evaluations", 0)),
        "simulations": int(totals.get("simulations", 0)),
        "distinct_evaluations": int(totals.get("distinct_evaluations", 0)),
        "sampled_evaluations": int(sampled),
        "sampled_decisions": int(totals.get("sampled_decisions", 0)),
        "mean_batch_rows": figures.get("mean_batch_rows"),
        "fill": figures.get("fill"),
        "dispatch_reasons": figures.get("dispatch_reasons", {}),
        "lane_idle": figures.get("lane_idle", []),
        "cache_hit_rate": figures["cache_hit_rate"],
        "model_version": pool.server_ready.get("model", ""),
        "worker_peak_rss_mb": round(
            server_rss if pool.pool_kind == "thread" and server_rss else totals["peak_rss_mb"], 1
        ),
        "server_peak_rss_mb": round(server_rss, 1) if server_rss else None,
        "device": backend.get("device", "none"),
        "dtype": backend.get("dtype", "none"),
        "pool": pool.pool_kind,
        "evaluator": pool.plan.evaluator,
        "games_by_worker": pool.games_by_worker(),
        "workers_lost": pool.lost,
        "workers_restarted": pool.restarted,
        "server_restarted": pool.server_restarted,
        "problems": pool.problems[-20:],
        **sizes,
    }
