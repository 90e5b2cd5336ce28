"""From a comparison with peers to the rows of results.json, and what stands under the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from grove.bench.core.counting import total
from grove.bench.core.estimate import Played, game_cost
from grove.bench.core.results import cpu_us_per_row, mean_visit_entropy, per_minute
from grove.bench.core.rounds import Round, Spread, check_enough, peak_share, probe_figures, quiet_rounds
from grove.bench.core.slices import Slice
from grove.bench.peers.peers import GROVE, PeersAsked, PeersOutcome, grove_asked
from grove.common.errors import PoolError
from grove.records.record import GameRecord, read_folder

Row = dict[str, Any]
FULL_NAMES = {
    "server-thread": "Grove, search threads",
    "server-process": "Grove, search processes",
    "server-thread-cache": "Grove, threads and cache",
    "mctx": "mctx + pgx (JAX)",
    "open_spiel": "OpenSpiel's Python MCTS",
    "grove": "Grove",
    "mosec": "mosec",
    "litserve": "LitServe",
}


def rows(wanted: PeersAsked, outcome: PeersOutcome) -> list[Row]:
    """Return one row per player, one per server and size of its messages, then what was not measured.

    Raises PoolError, with the numbers, when too few rounds of the players are left to report anything; servers without
    enough rounds are not measured.
    """
    limit = wanted.asked.probe_limit
    check_enough(outcome.players, limit)
    found = [_player(wanted, outcome, name, quiet_rounds(outcome.players, limit)) for name in outcome.players[0].slices]
    if outcome.batchers:
        found += _batchers(outcome, limit)
    return found + [{"mode": name, "not_measured": why} for name, why in outcome.not_measured.items()]


def _batchers(outcome: PeersOutcome, limit: float) -> list[Row]:
    names = list(outcome.batchers[0].slices)
    try:
        check_enough(outcome.batchers, limit)
    except PoolError as error:
        return [{"mode": name, "not_measured": str(error)} for name in dict.fromkeys(n.split()[0] for n in names)]
    return [_batcher(outcome, name, quiet_rounds(outcome.batchers, limit)) for name in names]


def _player(wanted: PeersAsked, outcome: PeersOutcome, name: str, rounds: Sequence[Round]) -> Row:
    slices = [done.slices[name] for done in rounds]
    counts = total(part.workers for part in slices)
    rates = Spread.of([part.simulations_per_second for part in slices])
    share, played = peak_share(rounds, name), outcome.played.get(name) or _played(counts)
    proof = _records_proof(outcome, name) if name in GROVE else _counted_proof(counts)
    return {
        "mode": name,
        "kind": "player",
        "cache": grove_asked(wanted.asked, name).search.cache if name in GROVE else None,
        "simulations_per_second": rates.median,
        "simulations_low": rates.low,
        "simulations_high": rates.high,
        "evaluations_per_second": median(part.evaluations_per_second for part in slices),
        "peak": median(done.peak for done in rounds),
        "peak_share": share.median if share else None,
        "games": int(counts.get("games", 0)),
        **per_minute(slices, game_cost([played]), {"games": 1}),
        **proof,
        "cpu_us_per_evaluation": cpu_us_per_row(sum(part.cpu_seconds for part in slices), counts),
        "against": {base: _plain(_against(rounds, name, base)) for base in rounds[0].slices if base not in GROVE},
        "about": outcome.about.get(name, {}),
        **_rounds_figures(rounds, outcome.players),
    }


def _batcher(outcome: PeersOutcome, name: str, rounds: Sequence[Round]) -> Row:
    server, size = name.split()
    slices = [done.slices[name] for done in rounds]
    rates = Spread.of([part.evaluations_per_second for part in slices])
    others = [base for base in rounds[0].slices if base != name and base.split()[1] == size]
    counts = total(part.workers for part in slices)
    return {
        "mode": server,
        "kind": "batcher",
        "message_rows": int(size),
        "evaluations_per_second": rates.median,
        "evaluations_low": rates.low,
        "evaluations_high": rates.high,
        "requests_per_second": rates.median / int(size),
        "cpu_us_per_evaluation": cpu_us_per_row(sum(part.cpu_seconds for part in slices), counts),
        "against": {base.split()[0]: _plain(_against(rounds, name, base)) for base in others},
        "about": outcome.about.get(server, {}),
        **_rounds_figures(rounds, outcome.batchers),
    }


def _rounds_figures(rounds: Sequence[Round], played: Sequence[Round]) -> Row:
    return {
        "rounds": len(rounds),
        "rounds_dropped": len(played) - len(rounds),
        "probe": probe_figures(rounds),
        "not_measured": None,
    }


def _against(rounds: Sequence[Round], name: str, base: str) -> Spread | None:
    """Return `name` by `base`, slices of one round paired: simulations a second of players, rows of servers."""
    pairs = [(_rate(done.slices[name]), _rate(done.slices[base])) for done in rounds]
    return Spread.of([high / low for high, low in pairs]) if all(low for _, low in pairs) else None


def _rate(part: Slice) -> float:
    return part.simulations_per_second or part.evaluations_per_second


def _plain(spread: Spread | None) -> Row | None:
    return spread._asdict() if spread else None


def _records_proof(outcome: PeersOutcome, name: str) -> Row:
    """Return what Grove's game records show: visits that a searched decision really had, and how long games are."""
    records = list(read_folder(outcome.pools[name].pool.plan.games_folder))
    searched = [pairs for record in records for pairs in record.visits if pairs]
    visits = sum(count for pairs in searched for _, count in pairs)
    return _proof(
        visits / len(searched) if searched else None,
        mean_visit_entropy(record.visits for record in records),
        _mean_length(records),
    )


def _counted_proof(counts: dict[str, float]) -> Row:
    """Return the same of what a peer counted in its slices."""
    moves, games = counts["moves"], counts["games"]
    return _proof(
        counts["simulations"] / moves if moves else None,
        counts["entropy"] / moves if moves else None,
        counts["game_moves"] / games if games else None,
    )


def _played(counts: Mapping[str, float]) -> Played:
    """Return what a peer's counts tell of a game's cost; it ends its slices with whole moves."""
    return Played(*(counts[name] for name in ("simulations", "moves", "games", "game_moves", "game_moves_squared")))


def _proof(simulations: float | None, entropy: float | None, length: float | None) -> Row:
    return {"simulations_per_move": simulations, "mean_visit_entropy": entropy, "mean_game_moves": length}


def _mean_length(records: Sequence[GameRecord]) -> float | None:
    return sum(len(record.moves) for record in records) / len(records) if records else None


def finding(found: Sequence[Row]) -> str:
    """Return in one line how many times the simulations of each peer Grove's threads make, without and with cache."""
    players = {row["mode"]: row for row in found if row.get("kind") == "player"}
    plain, cached = players["server-thread"], players["server-thread-cache"]
    peers = [peer for peer, spread in plain["against"].items() if spread]
    if not peers:
        return f"Grove makes {plain['simulations_per_second']:,.0f} simulations a second; no peer could be measured"
    times = [f"{_times(plain, p)} ({_times(cached, p)} with its cache) times {FULL_NAMES[p]}" for p in peers]
    return f"Grove makes {' and '.join(times)}, in simulations a second"


def _times(row: Row, peer: str) -> str:
    middle = float(row["against"][peer]["median"])
    return f"{middle:.1f}" if middle < 9.95 else f"{middle:.0f}"
