"""The comparison: warm pools play in turn, slice by slice, with the peak and a burn probe beside every round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from grove.bench.core.estimate import Played
from grove.bench.core.modes import Asked, Variant, direct_at_pool_workers, direct_kinds, pool_plans, unsuited
from grove.bench.core.peak import Peak, PeakJob
from grove.bench.core.probe import burn_probe
from grove.bench.core.rounds import LEAST_ROUNDS, Round, mean_others, median_rates
from grove.bench.core.slices import Contender, OthersUse, Slice, WarmPool, cpu_seconds
from grove.common.errors import PoolError
from grove.game import load_game
from grove.workers.selfplay.evaluators import row_spec

PROBE_S = 0.1
"""Seconds of each half of a burn probe."""
WANTED_ROUNDS = 7
"""Rounds to aim at; more when slices would become longer than `LONGEST_SLICE_S`."""
LONGEST_SLICE_S = 3.0
SHORTEST_SLICE_S = 0.2
VARIANT_SHARE = 0.2
"""Part of the measuring time that goes into the choice of the direct baseline, at most `VARIANT_SLICE_S` a slice."""
VARIANT_ROUNDS = 3
VARIANT_SLICE_S = 1.0

_PEAK = "peak"

Say = Callable[[str], None]


@dataclass
class ModeFigures:
    """One mode, or one variant of it, with its pool (stopped by the time a comparison returns) and its rounds."""

    name: str
    pool: WarmPool
    rounds: Sequence[Round]
    played: Played
    """What the pool did in its whole life."""
    variant: str = ""
    """For `direct`: which variant the baseline is."""


@dataclass
class Comparison:
    """What a comparison found."""

    rounds: list[Round] = field(default_factory=list)
    modes: list[ModeFigures] = field(default_factory=list)
    """The modes in the order asked for, as far as they could be measured."""
    variants: list[ModeFigures] = field(default_factory=list)
    """The variants of `direct`; their rounds are those of the choice."""
    not_measured: dict[str, str] = field(default_factory=dict)
    """Mode or variant -> why it could not be measured here."""
    peak: dict[str, Any] = field(default_factory=dict)
    units: Mapping[str, int] = field(default_factory=lambda: {"games": 1})
    """What one finished game counts as (`Game.units`)."""
    slice_s: float = 0.0
    idle_cpu: float = 0.0
    """Processors that all paused processes together used during the slices of others."""
    others_cpu: float | None = None
    """Processors that programs other than this comparison used meanwhile; None where a CPU quota hides it."""


def run_comparison(asked: Asked, say: Say) -> Comparison:
    """Measure all modes and return what was found; every process has ended by then.

    Raises:
        GroveError: the network cannot be run, a pool died while it was measured, or no mode could be measured.
    """
    outcome = Comparison(units=load_game(asked.game_spec).units)
    plans = pool_plans(asked)
    with ExitStack() as stack:
        peak = stack.enter_context(start_peak(asked, say))
        outcome.peak = peak.found
        # Every mode computes in the number format that was found best, but for `direct`: one position a call is
        # faster in fp32, whose set-up costs less.
        network = replace(asked.network, dtype=peak.found["backend"]["dtype"])
        warm: dict[str, WarmPool] = {}
        left_s = asked.seconds
        for mode in asked.modes:
            if mode == "direct":
                left_s *= 1 - VARIANT_SHARE
                baseline = _choose_direct(asked, outcome, stack, say)
                if baseline is not None:
                    warm[mode] = baseline
            elif mode not in plans:
                _not_measured(mode, unsuited(asked, mode), outcome, say)
            else:
                pool = WarmPool(mode, replace(plans[mode], network=network))
                started = _started(mode, pool, outcome, stack, say)
                if started is not None:
                    warm[mode] = started
        if not warm:
            raise PoolError(f"no mode could be measured: {'; '.join(outcome.not_measured.values())}")
        _play_rounds(warm, peak, left_s, outcome, say)
        outcome.modes = [
            ModeFigures(mode, pool, outcome.rounds, Played.by(pool), variant=pool.name if mode == "direct" else "")
            for mode, pool in warm.items()
        ]
    return outcome


def start_peak(asked: Asked, say: Say) -> Peak:
    """Start the process that measures the peak and wait for the end of its sweep; the caller closes it.

    Raises:
        GroveError: the network cannot be run; the process has ended by then.
    """
    job = PeakJob(
        row_spec=row_spec(load_game(asked.game_spec)), network=asked.network, max_batch=asked.server.max_batch
    )
    peak = Peak(job)
    try:
        peak.wait_ready()
    except BaseException:
        peak.__exit__()
        raise
    found = peak.found
    best = max(item["rows_per_second"] for item in found["tried"])
    backend = found["backend"]
    say(
        f"peak: {best:,.0f} rows/s, {found['lanes']} lanes of {found['bucket']} rows, {backend['dtype']} "
        f"{backend['kind']} on {backend['device']}"
    )
    return peak


def _started(name: str, pool: WarmPool, outcome: Comparison, stack: ExitStack, say: Say) -> WarmPool | None:
    """Start and warm one pool; None, with the reason noted, when it cannot work here."""
    stack.enter_context(pool)
    try:
        pool.start()
    except PoolError as error:
        pool.pool.stop()
        _not_measured(name, str(error), outcome, say)
        return None
    chosen = pool.pool.sizes
    say(f"{name}: warm; {chosen}")
    return pool


def _not_measured(name: str, why: str, outcome: Comparison, say: Say) -> None:
    outcome.not_measured[name] = why
    say(f"{name}: not measured; {why}")


# -- the baseline ------------------------------------------------------------------------------------------------------


def _choose_direct(asked: Asked, outcome: Comparison, stack: ExitStack, say: Say) -> WarmPool | None:
    """Try the variants of `direct` in short rounds of their own and return the pool of the fastest; stop the others."""
    slice_s = VARIANT_SHARE * asked.seconds / VARIANT_ROUNDS / 4
    slice_s = min(max(slice_s, SHORTEST_SLICE_S), VARIANT_SLICE_S)
    kinds = {variant.name: variant for variant in direct_kinds(asked)}
    best = _fastest(list(kinds.values()), {}, slice_s, (outcome, stack, say))
    if best is None:
        outcome.not_measured["direct"] = "none of its variants can run here"
        return None
    more = direct_at_pool_workers(asked, kinds[best.name])
    if more is not None:
        best = _fastest([more], {best.name: best}, slice_s, (outcome, stack, say)) or best
    say(f"direct: the baseline is {best.name}")
    return best


def _fastest(
    variants: Sequence[Variant],
    running: dict[str, WarmPool],
    slice_s: float,
    context: tuple[Comparison, ExitStack, Say],
) -> WarmPool | None:
    outcome, stack, say = context
    pools = dict(running)
    for variant in variants:
        if variant.fault:
            _not_measured(variant.name, variant.fault, outcome, say)
        elif pool := _started(variant.name, WarmPool(variant.name, variant.plan), outcome, stack, say):
            pools[variant.name] = pool
    if not pools:
        return None
    rounds = [play_round(pools, None, slice_s, number) for number in range(VARIANT_ROUNDS)]
    rates = median_rates(rounds)
    fastest = max(rates, key=lambda name: rates[name])
    for name, pool in pools.items():
        if name not in running:
            outcome.variants.append(ModeFigures(name, pool, rounds, Played.by(pool)))
        if name != fastest:
            pool.pool.stop()
    return pools[fastest]


# -- rounds ------------------------------------------------------------------------------------------------------------


def slice_length(seconds: float, modes: int) -> tuple[float, int]:
    """Return the seconds of a slice and how many rounds of `modes` slices fit into `seconds`."""
    slice_s = min(max(seconds / (WANTED_ROUNDS * modes), SHORTEST_SLICE_S), LONGEST_SLICE_S)
    return slice_s, max(LEAST_ROUNDS, int(seconds / (slice_s * modes + 2 * PROBE_S)))


def _play_rounds(warm: Mapping[str, WarmPool], peak: Peak, seconds: float, outcome: Comparison, say: Say) -> None:
    outcome.slice_s, count = slice_length(seconds, len(warm) + 1)
    say(f"{count} rounds of {outcome.slice_s:.1f} s a mode")
    for number in range(count):
        done = play_round(warm, peak, outcome.slice_s, number)
        outcome.rounds.append(done)
        rates = ", ".join(f"{mode} {done.slices[mode].evaluations_per_second:,.0f}" for mode in warm)
        say(f"round {number + 1} of {count}: peak {done.peak:,.0f}, {rates} evaluations/s")
    outcome.idle_cpu = fmean(done.idle_cpu for done in outcome.rounds)
    outcome.others_cpu = mean_others(outcome.rounds)


def play_round(contenders: Mapping[str, Contender], peak: Peak | None, seconds: float, first: int) -> Round:
    """Play one slice of every contender and of the peak, all others paused, between two burn probes.

    `first` is the place to begin at: taking turns at it, no one always has the machine fresh from the same neighbour.
    """
    before = burn_probe(PROBE_S)
    slices: dict[str, Slice] = {}
    rate = peak_cpu = idle = took = 0.0
    others = OthersUse()
    processes = {name: set(contender.processes) for name, contender in contenders.items()}
    order = [*contenders, *([_PEAK] if peak is not None else [])]
    start = first % len(order)
    for name in order[start:] + order[:start]:
        # Contenders may share processes, such as the clients that ask one server after the other.
        playing = set(peak.processes) if name == _PEAK and peak is not None else processes[name]
        paused = set[int]().union(*processes.values(), peak.processes if peak is not None else ()) - playing
        used, began = cpu_seconds(paused), time.perf_counter()
        if name == _PEAK and peak is not None:
            rate, peak_cpu = peak.measure(seconds)
        else:
            slices[name] = contenders[name].play(seconds)
        idle += cpu_seconds(paused) - used
        took += time.perf_counter() - began
        for contender in contenders.values():
            contender.look_after()
    others_cpu = others.look()
    return Round((before, burn_probe(PROBE_S)), rate, slices, peak_cpu, idle / took, others_cpu)
