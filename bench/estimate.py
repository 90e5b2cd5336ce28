"""From measured games per minute to the days that a training plan needs for its games, with an interval."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.rounds import Spread
from common.errors import SettingError

Row = Mapping[str, Any]

MINUTES_A_DAY = 1440
_FORM = re.compile(r"\s*([\d_,]+)\s*[xX*]\s*([\d_,]+)\s*\Z")
_MOST_GAMES = 10**15
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t for 95 % of both sides, by degrees of freedom from 1 on."""


class Plan(NamedTuple):
    """A training plan: so many iterations, each with so many finished games of self-play."""

    iterations: int
    games: int

    @property
    def total(self) -> int:
        """Games of the whole plan."""
        return self.iterations * self.games

    def __str__(self) -> str:
        return f"{self.iterations:,} x {self.games:,}"


def parse_plan(text: str | None) -> Plan | None:
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
    return Plan(*numbers)


def days(plan: Plan, games_per_minute: float) -> float:
    """Return the days of self-play that `plan` needs at a rate of finished games; infinite at a rate of 0."""
    return plan.total / games_per_minute / MINUTES_A_DAY if games_per_minute > 0 else math.inf


def games_rate(slices: Sequence[tuple[float, float]]) -> Spread:
    """Return games per minute, and its 95 % interval, of slices given as (games, seconds), one at least.

    The interval is the wider of two: how much the slices differ (Student's t), and how much a count of that size
    varies anyway (Poisson). The lower end is at least 0.
    """
    games, seconds = (sum(part[i] for part in slices) for i in (0, 1))
    rate, count = games / seconds, len(slices)
    half = 1.96 * math.sqrt(games) / seconds
    if count > 1:
        rest = sum((done - rate * took) ** 2 for done, took in slices)
        half = max(half, _t95(count - 1) * math.sqrt(rest * count / (count - 1)) / seconds)
    return Spread(60 * rate, 60 * max(0.0, rate - half), 60 * (rate + half))


def plan_columns(plan: Plan, row: Row) -> dict[str, Any]:
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
