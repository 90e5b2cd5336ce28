"""How fast processes grow: the slope of their memory over all lives of a role, with its interval.

What a life does in its first minute is no leak: caches and pools fill. A life that is hardly longer says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

WARM_S = 60.0
"""Seconds at the start of a life that are left out."""
_BLOCK_S = 5.0
"""Samples are averaged over so long, because neighbours are not independent."""
_LEAST_BLOCKS = 3
LEAST_S = WARM_S + _LEAST_BLOCKS * _BLOCK_S
"""Shortest life that says anything, in seconds."""
_FEWEST = 8
"""Fewest block means beyond the degrees of freedom that a slope is told for."""

Sample = tuple[float, float]
"""Seconds, MB."""


@dataclass(frozen=True)
class Slope:
    """Growth in MB an hour, with its 95 % interval."""

    mb_per_hour: float
    low: float
    high: float
    lives: int
    """Long enough ones."""
    seconds: float
    """Observed in all, first minutes left out."""


def slope(lives: Iterable[Sequence[Sample]]) -> Slope | None:
    """Return the common slope of several lives, each at a level of its own; None when they are too short to say."""
    blocks = [_blocks(life) for life in lives]
    blocks = [life for life in blocks if len(life) >= _LEAST_BLOCKS]
    points = [(t - mean(x for x, _ in life), m - mean(y for _, y in life)) for life in blocks for t, m in life]
    freedom = len(points) - len(blocks) - 1
    if freedom < _FEWEST:
        return None
    spread = sum(t * t for t, _ in points)
    rise = sum(t * m for t, m in points) / spread
    rest = sum((m - rise * t) ** 2 for t, m in points)
    error = (rest / freedom / spread) ** 0.5 * student(freedom)
    hour = 3600.0
    return Slope(hour * rise, hour * (rise - error), hour * (rise + error), len(blocks), len(points) * _BLOCK_S)


def _blocks(life: Sequence[Sample]) -> list[Sample]:
    """Return the means of whole blocks of a life after its warm-up."""
    if not life:
        return []
    blocks: dict[int, list[Sample]] = {}
    for t, m in life:
        if t - life[0][0] >= WARM_S:
            blocks.setdefault(int((t - life[0][0]) // _BLOCK_S), []).append((t, m))
    return [(mean(t for t, _ in block), mean(m for _, m in block)) for block in list(blocks.values())[:-1]]


def student(freedom: int) -> float:
    """Return the two-sided 95 % point of Student's distribution, to 1 %."""
    return 1.96 + 2.37 / freedom + 2.82 / freedom**2 + 2.56 / freedom**3 + 3 / freedom**5
