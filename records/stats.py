"""Statistics of recorded games: lengths, time-outs and their cap, what each seat makes of its seat, models, rates."""

from __future__ import annotations

import tomllib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from grove.common.errors import GroveError, RecordError
from grove.game import load_game
from grove.game.registry import BUILT_IN
from grove.records.files import LineReader, Run, read_whole, reason
from grove.records.record import JOINT, GameRecord

FEWEST = 30
"""Games from which a mean gets an interval; below, the normal approximation of a mean does not hold."""
MOST_SLICES = 120
"""Slices of time in which rates are told."""
PERCENTS = (0, 10, 25, 50, 75, 90, 100)


class ScoreInterval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson(successes: int, trials: int) -> ScoreInterval | None:
    """Return the Wilson score interval of a share; None without trials."""
    from scipy import stats  # takes a second to load

    if not trials:
        return None
    found = stats.binomtest(successes, trials).proportion_ci(0.95, "wilson")
    return ScoreInterval(float(found.low), float(found.high))


def _mean_interval(values: Counter[float]) -> ScoreInterval | None:
    """Return mean -+ 1.96 standard errors of counted values; None for few of them."""
    from scipy import stats

    if values.total() < FEWEST:
        return None
    every = np.repeat(list(values), list(values.values()))
    mean, error = float(every.mean()), float(stats.sem(every))
    low, high = stats.norm.interval(0.95, mean, error) if error else (mean, mean)
    return ScoreInterval(float(low), float(high))


class Cap(NamedTuple):
    """Where a game is ended as timed out, in moves, and who says so."""

    moves: int
    source: str


@dataclass
class Seats:
    """How the seats of one kind of game fared; games that timed out are left out of all but `timeouts`.

    A game is won by the seat of the highest utility, and drawn when several seats have it.
    """

    decided: int = 0
    draws: int = 0
    timeouts: int = 0
    wins: Counter[int] = field(default_factory=Counter)
    """By seat."""
    utilities: defaultdict[int, Counter[float]] = field(default_factory=lambda: defaultdict(Counter))
    """By seat: utility -> games."""

    def add(self, record: GameRecord) -> None:
        """Count one game."""
        if record.status == "timeout":
            self.timeouts += 1
            return
        best = max(record.utilities)
        if record.utilities.count(best) > 1:
            self.draws += 1
        else:
            self.decided += 1
            self.wins[record.utilities.index(best)] += 1
        for seat, utility in enumerate(record.utilities):
            self.utilities[seat][utility] += 1

    def table(self) -> dict[str, Any]:
        """Return the figures; shares are of the decided games, utilities of decided and drawn ones."""
        return {
            "games": self.decided + self.draws + self.timeouts,
            "decided": self.decided,
            "draws": self.draws,
            "timeouts": self.timeouts,
            "fair_share": 1 / len(self.utilities) if self.utilities else None,
            "seats": [
                {
                    "seat": seat,
                    "wins": self.wins[seat],
                    "share": self.wins[seat] / self.decided if self.decided else None,
                    "share_95": wilson(self.wins[seat], self.decided),
                    "mean_utility": sum(u * count for u, count in utilities.items()) / utilities.total(),
                    "mean_utility_95": _mean_interval(utilities),
                }
                for seat, utilities in sorted(self.utilities.items())
            ],
        }


@dataclass
class SpecStats:
    """The games of one spec."""

    statuses: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    """Moves of a game -> games."""
    timeout_lengths: Counter[int] = field(default_factory=Counter)
    seats: dict[str, Seats] = field(default_factory=dict)
    """By `swapped`, `not swapped`, or "" where the records do not say."""
    model_moves: Counter[str] = field(default_factory=Counter)
    """Moves that the model answered alone."""
    joint_moves: int = 0
    """Moves that several models answered: one took over from the other in mid-search."""
    model_games: Counter[str] = field(default_factory=Counter)
    """Games in which the model answered for a move."""
    mixed_games: int = 0
    """Games for which several models answered."""
    caps: Counter[Cap] = field(default_factory=Counter)
    """Games played under each cap; games of an unknown one are left out."""

    def add(self, record: GameRecord, cap: Cap | None) -> None:
        """Count one game."""
        self.statuses[record.status] += 1
        self.lengths[len(record.moves)] += 1
        if record.status == "timeout":
            self.timeout_lengths[len(record.moves)] += 1
        swapped = record.extra.get("swapped")
        label = ("swapped" if swapped else "not swapped") if isinstance(swapped, bool) else ""
        self.seats.setdefault(label, Seats()).add(record)
        self._add_models([model.split(JOINT) for model in record.models if model is not None])
        if cap is not None:
            self.caps[cap] += 1

    def _add_models(self, moves: Sequence[Sequence[str]]) -> None:
        """Count who answered one game; `moves` holds the models of each move."""
        alone = Counter(models[0] for models in moves if len(models) == 1)
        of_game = {model for models in moves for model in models}
        self.model_moves.update(alone)
        self.joint_moves += len(moves) - alone.total()
        self.model_games.update(of_game)
        self.mixed_games += len(of_game) > 1

    def table(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        games = self.lengths.total()
        return {
            "games": games,
            "statuses": dict(self.statuses),
            "lengths": length_table(self.lengths),
            "timeouts": {
                "games": self.statuses["timeout"],
                "share": self.statuses["timeout"] / games if games else None,
                "share_95": wilson(self.statuses["timeout"], games),
                "lengths": length_table(self.timeout_lengths),
                "caps": [{**cap._asdict(), "games": count} for cap, count in sorted(self.caps.items())],
                "games_of_unknown_cap": games - self.caps.total(),
            },
            "seats": {label: seats.table() for label, seats in sorted(self.seats.items())},
            "models": [
                {"model": model, "games": played, "moves": self.model_moves[model]}
                for model, played in sorted(self.model_games.items(), key=lambda entry: -self.model_moves[entry[0]])
            ],
            "joint_moves": self.joint_moves,
            "mixed_games": self.mixed_games,
        }


def length_table(lengths: Counter[int]) -> dict[str, Any] | None:
    """Return the distribution of game lengths in moves; None without games."""
    if not lengths:
        return None
    counts = dict(sorted(lengths.items()))
    values, weights = np.array(list(counts)), np.array(list(counts.values()))
    quantiles = np.percentile(values, PERCENTS, weights=weights, method="inverted_cdf")
    return {
        "mean": float(np.average(values, weights=weights)),
        **{f"p{percent}": int(value) for percent, value in zip(PERCENTS, quantiles, strict=True)},
        "counts": {str(length): count for length, count in counts.items()},
    }


class Caps:
    """The caps on moves of runs and games, each looked up once.

    Built-in games are asked; a user's game is never imported because some data names it.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        """Files of runs that could not be read."""
        self._settings: dict[Path, int] = {}
        self._rules: dict[str, int] = {}

    def cap(self, run: Run, spec: str) -> Cap | None:
        """Return the cap on games of `spec` in `run`, or None when nobody says."""
        if spec not in self._rules:
            self._rules[spec] = _cap_of_rules(spec)
        if run.folder is not None and run.folder not in self._settings:
            self._settings[run.folder] = self._read(run.folder)
        rules, setting = self._rules[spec], self._settings.get(run.folder, 0) if run.folder else 0
        if setting and not 0 < rules <= setting:
            return Cap(setting, f"the setting max_moves of {run.folder}")
        return Cap(rules, "the rules of the game") if rules else None

    def _read(self, folder: Path) -> int:
        try:
            value = tomllib.loads(read_whole(folder / "config.toml").decode()).get("max_moves", 0)
        except (OSError, ValueError, RecursionError) as error:
            self.problems.append(f"{folder / 'config.toml'}: {reason(error)}; the cap on moves is not known")
            return 0
        return value if type(value) is int and 0 < value < 1 << 31 else 0


def _cap_of_rules(spec: str) -> int:
    if spec.partition(":")[0] not in BUILT_IN:
        return 0
    try:
        return load_game(spec).max_moves
    except GroveError:
        return 0


# -- rates over time -------------------------------------------------------------------------------------------------

_Rate = Annotated[float, Meta(ge=0, le=1e12)]


class _Line(msgspec.Struct):
    """What one line of metrics.jsonl tells of the workers."""

    time: _Rate
    interval_s: _Rate
    games_per_minute_by_worker: Annotated[list[_Rate], Meta(min_length=1)]


def read_rates(folder: Path) -> dict[str, Any]:
    """Return games a minute of each worker of the run in `folder`, as its metrics.jsonl tells; never raises.

    Over all the time and in at most `MOST_SLICES` slices of it; null where a worker did not play.
    """
    rows: list[_Line] = []
    problems: list[str] = []
    path, bad, decode = folder / "metrics.jsonl", 0, msgspec.json.Decoder(_Line).decode
    try:
        for _, line in LineReader(path).lines():
            try:
                rows.append(decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                bad += 1
    except RecordError as error:
        problems.append(f"{path}: {error}; rates over time are not known")
    if bad:
        problems.append(f"{path}: {bad} lines tell no rates of workers")
    step = -(-len(rows) // MOST_SLICES) or 1
    slices = [rows[at : at + step] for at in range(0, len(rows), step)]
    return {
        "games_per_minute_by_worker": _by_worker(rows),
        "slices": [
            {"begin": part[0].time, "end": part[-1].time, "games_per_minute_by_worker": _by_worker(part)}
            for part in slices
        ],
        "problems": problems,
    }


def _by_worker(rows: Sequence[_Line]) -> list[float | None]:
    """Return the mean of each worker's rates, weighted by their seconds."""
    workers = max((len(row.games_per_minute_by_worker) for row in rows), default=0)
    seconds, games = np.zeros(workers), np.zeros(workers)
    for row in rows:
        rates = np.array(row.games_per_minute_by_worker)
        seconds[: len(rates)] += row.interval_s
        games[: len(rates)] += rates * row.interval_s
    return [float(played / lasted) if lasted else None for played, lasted in zip(games, seconds, strict=True)]
