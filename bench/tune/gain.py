"""What one way to run brings over another: medians of paired slices, with an interval that assumes no distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from grove.bench.core.rounds import Round, quiet_rounds
from grove.bench.core.slices import Slice

CONFIDENCE = 0.95
LEAST_QUIET = 6
"""Fewest quiet rounds from which something is concluded: of fewer no interval has `CONFIDENCE`."""
WORTH = 1.02
"""Gain below which settings count as good as the default: nobody would notice, and machines drift by more."""


class Gain(NamedTuple):
    """How many times as many simulations per second as the default's, over paired rounds."""

    median: float
    """The median."""
    low: float
    high: float
    """The interval: see `interval`."""
    confidence: float
    rounds: int
    dropped: int
    """Rounds left out because the burn probe moved; none where too few would have been left."""
    busy: bool
    """Whether fewer than `LEAST_QUIET` rounds were quiet, so that all were taken and nothing is concluded."""

    @property
    def better(self) -> bool:
        """Whether the gain is worth having and larger than chance, by quiet rounds."""
        return not self.busy and self.median >= WORTH and self.low > 1

    def __str__(self) -> str:
        sure = f"{100 * self.confidence:.0f} %, {self.rounds} rounds"
        return f"{self.median:.2f}x the default [{self.low:.2f}, {self.high:.2f}] ({sure})"


def gain_of(rounds: Sequence[Round], name: str, base: str, probe_limit: float) -> Gain:
    """Return what mode `name` brings over mode `base`."""
    quiet = quiet_rounds(rounds, probe_limit)
    busy = len(quiet) < LEAST_QUIET
    counted = list(rounds) if busy else quiet
    ratios = [ratio([done.slices[name]], [done.slices[base]]) for done in counted]
    low, high, confidence = interval(ratios)
    return Gain(median(ratios), low, high, confidence, len(ratios), len(rounds) - len(counted), busy)


def ratio(mine: Sequence[Slice], base: Sequence[Slice]) -> float:
    """Return the simulations per second of slices by those of the `base`; 0 where there are none.

    Of the same games the same number are needed however they are run; too few games end in seconds to be counted.
    """
    below = rate(base)
    return rate(mine) / below if below else 0.0


def rate(slices: Sequence[Slice]) -> float:
    """Return the simulations per second of slices together; 0 without any."""
    seconds = sum(part.seconds for part in slices)
    return sum(part.workers.get("simulations", 0) for part in slices) / seconds if seconds else 0.0


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the ends of an interval for the median of what `values` are drawn from, and its confidence.

    The ends are values themselves, as many places from lowest and highest as keep the confidence at `CONFIDENCE`: each
    value lies below the median as often as a coin shows heads. Fewer than six values cannot reach it; their ends are
    the lowest and the highest, with the confidence that those have.
    """
    ordered, count = sorted(values), len(values)
    outside = [2 * sum(math.comb(count, k) for k in range(i + 1)) / 2**count for i in range((count + 1) // 2)]
    place = max((i for i, share in enumerate(outside) if share <= 1 - CONFIDENCE), default=0)
    return ordered[place], ordered[-1 - place], max(0.0, 1 - outside[place])
