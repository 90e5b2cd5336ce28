"""Games per minute from simulations per second and what a game takes of them, and from these the days of a plan.

In slices of seconds the games that end are few, and trees whose roots were set together decide together: their count is
chance. Simulations are counted by the thousand, and a game costs as many of them however it is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from grove.bench.core.rounds import Spread
from grove.bench.core.slices import Slice, WarmPool
from grove.common.errors import SettingError
from grove.records.record import read_folder

Row = Mapping[str, Any]

MINUTES_A_DAY = 1440
LEAST_GAMES = 5
"""Fewest finished games that may tell how long a game is."""
_FORM = re.compile(r"\s*([\d_,]+)\s*[xX*]\s*([\d_,]+)\s*\Z")
_MOST_GAMES = 10**15
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t for 95 % of both sides, by degrees of freedom from 1 on."""


class LongRun(NamedTuple):
    """A training plan: so many iterations, each with so many finished games of self-play."""

    iterations: int
    games: int

    @property
    def total(self) -> int:
        """Games of the whole plan."""
        return self.iterations * self.games

    def __str__(self) -> str:
        return f"{self.iterations:,} x {self.games:,}"


def parse_plan(text: str | None) -> LongRun | None:
    """Return the plan of ``ITERATIONSxGAMES``, such as ``500x10000``; None where none was given.

    Raises SettingError for anything else, and for numbers below 1.
    """
    if text is None:
        return None
    found = _FORM.match(str(text))
    numbers = [int("".join(c for c in part if c.isdigit()) or 0) for part in found.groups()] if found else []
    if not numbers or min(numbers) < 1 or math.prod(numbers) > _MOST_GAMES:
        raise SettingError.of(
            "plan", text, "it must be ITERATIONSxGAMES, two whole numbers from 1 on", "write it like 500x10000"
        )
    return LongRun(*numbers)


def days(plan: LongRun, games_per_minute: float) -> float:
    """Return the days of self-play that `plan` needs at a rate of finished games; infinite at a rate of 0."""
    return plan.total / games_per_minute / MINUTES_A_DAY if games_per_minute > 0 else math.inf


class Played(NamedTuple):
    """What a pool did in its whole life, as far as it tells what a game costs; plain numbers."""

    simulations: float
    moves: float
    """Moves that these simulations decided, forced ones between them included."""
    games: float
    """Games finished."""
    length: float
    """Sum of the moves of the finished games."""
    squares: float
    """Sum of the squares of the same."""

    @classmethod
    def of(cls, counts: Mapping[str, float], lengths: Sequence[int]) -> Self:
        """Return what the workers' `counts` and the moves of each finished game come to.

        Of the decision that is under way in each game half is done, on average.
        """
        decisions = counts.get("decisions", 0)
        started = 1 + counts.get("in_progress", 0) / 2 / decisions if decisions else 0.0
        simulations = counts.get("simulations", 0) if decisions else 0.0
        squares = sum(moves**2 for moves in lengths)
        return cls(simulations, counts.get("moves", 0) * started, len(lengths), sum(lengths), squares)

    @classmethod
    def by(cls, warm: WarmPool) -> Self:
        """Return what a pool at rest has done so far."""
        records = read_folder(warm.pool.plan.games_folder)
        return cls.of(warm.pool.totals(), [len(record.moves) for record in records])


class GameCost(NamedTuple):
    """What a finished game takes."""

    simulations: float
    error: float
    """Half of its 95 % interval, as a share of it."""


def game_cost(pools: Iterable[Played]) -> GameCost | None:
    """Return the simulations of a finished game; None when fewer than `LEAST_GAMES` ended in each of the pools.

    Every way to run plays the same games, so all are put together: the mean moves of finished games by the simulations
    of a move. Because they may be the very same games, the standard error is that of the pool that finished most. In
    seconds those end that began near their end, so that dividing by their number would not do; their length counts.
    """
    played = list(pools)
    most = max((one.games for one in played), default=0.0)
    simulations, moves, games, length, squares = (
        (sum(part) for part in zip(*played, strict=True)) if played else [0] * 5
    )
    if most < LEAST_GAMES or not moves:
        return None
    mean = length / games
    deviation = math.sqrt(max(0.0, squares / games - mean**2) / (most - 1))
    return GameCost(mean * simulations / moves, _t95(int(most) - 1) * deviation / mean)


def games_rate(slices: Sequence[Slice], cost: GameCost) -> Spread:
    """Return games per minute and its 95 % interval: 60 x simulations per second by the simulations of a game.

    The interval is of two parts, added as independent: how much the slices differ (Student's t; nothing is known of it
    from one slice), and how surely the length of a game is known. The lower end is at least 0.
    """
    done = [(part.workers.get("simulations", 0), part.seconds) for part in slices]
    simulations, seconds = (sum(part[i] for part in done) for i in (0, 1))
    speed, count, half = simulations / seconds, len(done), 0.0
    if count > 1 and speed:
        rest = sum((some - speed * took) ** 2 for some, took in done)
        half = _t95(count - 1) * math.sqrt(rest * count / (count - 1)) / simulations
    rate, share = 60 * speed / cost.simulations, math.hypot(half, cost.error)
    return Spread(rate, rate * max(0.0, 1 - share), rate * (1 + share))


def plan_columns(plan: LongRun, row: Row) -> dict[str, Any]:
    """Return `plan_games`, `plan_days` and its interval for a row of results; None where no rate was measured.

    Keys of the row: `games_per_minute`, `games_per_minute_low`, `games_per_minute_high`. An end that the measurement
    leaves open is None.
    """
    ends = {"plan_days": "", "plan_days_low": "_high", "plan_days_high": "_low"}
    rates = {name: row.get(f"games_per_minute{end}") for name, end in ends.items()}
    return {"plan_games": plan.total, **{name: days(plan, rate) if rate else None for name, rate in rates.items()}}


def _t95(freedom: int) -> float:
    # Beyond the table the approximation is within 0.03.
    return _T95[freedom - 1] if freedom <= len(_T95) else 1.96 + 2.4 / freedom
