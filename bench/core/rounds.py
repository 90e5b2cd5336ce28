"""Rounds of a comparison: which of them count, and ratios as medians of paired slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple, TypeVar

from grove.bench.core.probe import Probe
from grove.bench.core.slices import Slice
from grove.common.errors import PoolError

LEAST_ROUNDS = 3
"""Fewest rounds a figure may rest on."""


@dataclass(frozen=True)
class Probed:
    """What was measured between two burn probes."""

    probes: tuple[Probe, Probe]
    """Burn probes before and after."""

    def moved(self, usual: Probe) -> float:
        """Return how far the probes beside this round are from `usual`, relative."""
        return max(probe.moved(usual) for probe in self.probes)


_Round = TypeVar("_Round", bound=Probed)


@dataclass(frozen=True)
class Round(Probed):
    """One slice of every mode, with what the machine delivered beside it."""

    peak: float
    """Rows per second of the network alone, in its own slice; 0 when it was not measured."""
    slices: dict[str, Slice]
    peak_cpu: float = 0.0
    """Processor seconds that the network alone took for a row."""
    idle_cpu: float = 0.0
    """Processors that paused processes used meanwhile."""
    others_cpu: float | None = None
    """Processors that other programs used meanwhile; None where a CPU quota hides it."""


class Spread(NamedTuple):
    """A median with the lowest and the highest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(median(values), min(values), max(values))


def usual_probe(rounds: Sequence[Probed]) -> Probe:
    """Return the median of all probes."""
    probes = [probe for done in rounds for probe in done.probes]
    return Probe(median(p.one_core for p in probes), median(p.all_cores for p in probes), probes[0].cores)


def quiet_rounds(rounds: Sequence[_Round], limit: float) -> list[_Round]:
    """Return the rounds whose probes moved by at most `limit` against the median."""
    usual = usual_probe(rounds)
    return [done for done in rounds if done.moved(usual) <= limit]


def check_enough(rounds: Sequence[Round], limit: float) -> None:
    """Raise PoolError when too few rounds are left to report figures."""
    left = len(quiet_rounds(rounds, limit))
    if left < LEAST_ROUNDS:
        worst = max(done.moved(usual_probe(rounds)) for done in rounds)
        raise PoolError(
            f"no figures: {left} of {len(rounds)} rounds are left and {LEAST_ROUNDS} are needed, because the burn "
            f"probe moved by up to {worst:.0%} (limit {limit:.0%}): other programs use the processor, or the machine "
            "drops cores; compare on a quiet machine or with more --seconds"
        )


def mean_others(rounds: Sequence[Round]) -> float | None:
    """Return the mean of the processors that other programs used; None where that is not known."""
    known = [done.others_cpu for done in rounds if done.others_cpu is not None]
    return fmean(known) if known else None


def median_rates(rounds: Sequence[Round]) -> dict[str, float]:
    """Return mode -> median evaluations per second."""
    return {mode: median(done.slices[mode].evaluations_per_second for done in rounds) for mode in rounds[0].slices}


def peak_share(rounds: Sequence[Round], mode: str) -> Spread | None:
    """Return the mode's evaluations per second as shares of the peak in the same round; None without a peak."""
    if not all(done.peak for done in rounds):
        return None
    return Spread.of([done.slices[mode].evaluations_per_second / done.peak for done in rounds])


def ratio(rounds: Sequence[Round], mode: str, base: str) -> Spread | None:
    """Return `mode` by `base` in evaluations per second, slices of one round paired.

    None when one of them was not measured, or `base` did nothing.
    """
    pairs = [(done.slices[mode], done.slices[base]) for done in rounds if {mode, base} <= done.slices.keys()]
    if not pairs or not all(low.evaluations_per_second for _, low in pairs):
        return None
    return Spread.of([high.evaluations_per_second / low.evaluations_per_second for high, low in pairs])


def probe_figures(rounds: Sequence[Round]) -> Mapping[str, float]:
    """Return the median probe, its spread (largest relative move) and the cores' worth delivered together."""
    usual = usual_probe(rounds)
    return {
        "one_core": usual.one_core,
        "all_cores": usual.all_cores,
        "cores": usual.cores,
        "delivered_cores": usual.delivered_cores,
        "spread": max(done.moved(usual) for done in rounds),
    }
