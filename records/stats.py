"""Statistics of recorded games: lengths, time-outs and their cap, what each seat makes of its seat, models, rates."""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from grove.common.errors import GroveError, RecordError
from grove.game import load_game
from grove.game.registry import BUILT_IN
from grove.records.files import LineReader, Run, read_whole, reason
from grove.records.record import GameRecord
from grove.records.versions import JOINT

Z95 = 1.959963984540054
FEWEST = 30
"""Games from which a mean gets an interval; below, the normal approximation of a mean does not hold."""
MOST_SLICES = 120
"""Slices of time in which rates are kept, an even number; neighbours are joined when there are more."""
MOST_WORKERS = 4096


class ScoreInterval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson(successes: int, trials: int) -> ScoreInterval | None:
    """Return the Wilson score interval of a share; None without trials.

    Wilson (1927); recommended over the textbook one, which is too narrow for small numbers and for shares near 0 or 1,
    by Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion, Statistical Science 16 (2001).
    """
    if not trials:
        return None
    share, z2 = successes / trials, Z95**2 / trials
    middle = (share + z2 / 2) / (1 + z2)
    half = Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials)) / (1 + z2)
    return ScoreInterval(max(0.0, middle - half), min(1.0, middle + half))


class Cap(NamedTuple):
    """Where a game is ended as timed out, in moves, and who says so."""

    moves: int
    source: str


@dataclass
class Seats:
    """How the seats of one kind of game fared; games that timed out are left out of all but `timeouts`.

    A game is won by the seat of the highest utility, and drawn when several seats have it.
    """

    games: int = 0
    decided: int = 0
    draws: int = 0
    timeouts: int = 0
    wins: list[int] = field(default_factory=list)
    """By seat."""
    sums: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)

    def add(self, record: GameRecord) -> None:
        """Count one game."""
        self.games += 1
        if record.status == "timeout":
            self.timeouts += 1
            return
        utilities = record.utilities
        while len(self.wins) < len(utilities):
            self.wins.append(0)
            self.sums.append(0.0)
            self.squares.append(0.0)
        best = max(utilities)
        if utilities.count(best) > 1:
            self.draws += 1
        else:
            self.decided += 1
            self.wins[utilities.index(best)] += 1
        for seat, utility in enumerate(utilities):
            self.sums[seat] += utility
            self.squares[seat] += utility * utility

    def table(self) -> dict[str, Any]:
        """Return the figures; shares are of the decided games, utilities of decided and drawn ones."""
        played = self.decided + self.draws
        return {
            "games": self.games,
            "decided": self.decided,
            "draws": self.draws,
            "timeouts": self.timeouts,
            "fair_share": 1 / len(self.wins) if self.wins else None,
            "seats": [
                {
                    "seat": seat,
                    "wins": wins,
                    "share": wins / self.decided if self.decided else None,
                    "share_95": wilson(wins, self.decided),
                    "mean_utility": self.sums[seat] / played if played else None,
                    "mean_utility_95": _mean_interval(self.sums[seat], self.squares[seat], played),
                }
                for seat, wins in enumerate(self.wins)
            ],
        }


def _mean_interval(total: float, squares: float, count: int) -> ScoreInterval | None:
    """Return mean -+ 1.96 standard errors; None for few values."""
    if count < FEWEST:
        return None
    mean = total / count
    half = Z95 * math.sqrt(max(0.0, squares / count - mean * mean) / (count - 1))
    return ScoreInterval(mean - half, mean + half)


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
    total = lengths.total()
    if not total:
        return None
    return {
        "mean": sum(length * count for length, count in lengths.items()) / total,
        **{f"p{percent}": quantile(lengths, percent) for percent in (0, 10, 25, 50, 75, 90, 100)},
        "counts": {str(length): lengths[length] for length in sorted(lengths)},
    }


def quantile(counts: Counter[int], percent: int) -> int:
    """Return the smallest value that at least `percent` of all values do not exceed."""
    wanted, seen = percent * counts.total(), 0
    for value in sorted(counts):
        seen += counts[value]
        if 100 * seen >= wanted:
            return value
    return max(counts)


# -- caps --------------------------------------------------------------------------------------------------------------


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


@dataclass
class Slice:
    """Some successive lines of metrics.jsonl."""

    begin: float
    """When the first line was written, seconds since 1970."""
    end: float
    """When the last one was."""
    played: dict[int, list[float]]
    """Worker -> games and seconds of playing."""

    def join(self, later: Slice) -> None:
        """Add the slice that follows."""
        self.end = later.end
        for worker, (games, seconds) in later.played.items():
            mine = self.played.setdefault(worker, [0.0, 0.0])
            mine[0] += games
            mine[1] += seconds


@dataclass
class Rates:
    """Games a minute of each worker of a run over time, as its metrics.jsonl tells."""

    slices: list[Slice] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def table(self) -> dict[str, Any]:
        """Return the rates as plain values: over all the time and slice by slice, null where a worker did not play."""
        total = Slice(0.0, 0.0, {})
        for part in self.slices:
            total.join(part)
        workers = max(total.played, default=-1) + 1
        return {
            "games_per_minute_by_worker": _by_worker(total, workers),
            "slices": [
                {"begin": part.begin, "end": part.end, "games_per_minute_by_worker": _by_worker(part, workers)}
                for part in self.slices
            ],
            "problems": self.problems,
        }


def _by_worker(part: Slice, workers: int) -> list[float | None]:
    played = [part.played.get(worker, [0.0, 0.0]) for worker in range(workers)]
    return [60 * games / seconds if seconds > 0 else None for games, seconds in played]


def read_rates(folder: Path) -> Rates:
    """Return the rates of the run in `folder`, from its metrics.jsonl; never raises for what is in it."""
    rates, path = Rates(), folder / "metrics.jsonl"
    lines_a_slice, open_lines, bad = 1, 0, 0
    try:
        for _, lines in LineReader(path).blocks():
            for line in lines or [b""]:  # one that is too long tells nothing either
                part = _slice_of(line)
                if part is None:
                    bad += 1
                    continue
                if open_lines:
                    rates.slices[-1].join(part)
                else:
                    rates.slices.append(part)
                open_lines = (open_lines + 1) % lines_a_slice
                if len(rates.slices) > MOST_SLICES and not open_lines:
                    _halve(rates.slices)
                    lines_a_slice *= 2
                    open_lines = lines_a_slice // 2  # the odd last one is half full
    except RecordError as error:
        rates.problems.append(f"{path}: {error}; rates over time are not known")
    if bad:
        rates.problems.append(f"{path}: {bad} lines tell no rates of workers")
    return rates


def _halve(slices: list[Slice]) -> None:
    """Join neighbours; an odd last one stays alone."""
    for first, second in zip(slices[::2], slices[1::2], strict=False):
        first.join(second)
    slices[:] = slices[::2]


def _slice_of(line: bytes) -> Slice | None:
    """Return what one line of metrics.jsonl tells of the workers, or None when it tells nothing of them."""
    try:
        row = json.loads(line)
        when, seconds, by_worker = (row[key] for key in ("time", "interval_s", "games_per_minute_by_worker"))
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    if not isinstance(by_worker, list) or not 0 < len(by_worker) <= MOST_WORKERS:
        return None
    if not _are_rates([when, seconds, *by_worker]):
        return None
    return Slice(when, when, {worker: [rate * seconds / 60, seconds] for worker, rate in enumerate(by_worker)})


def _are_rates(numbers: Sequence[Any]) -> bool:
    return all(type(number) in (int, float) and 0 <= number <= 1e12 for number in numbers)
