"""A sweep: every point is visited in turn, each with a pool of its own, beside the peak and a burn probe.

Pools of hundreds of workers cannot all be kept warm, so a visit starts its pool, plays a few slices and stops it.
Points are visited again in the opposite order, so that a machine that slowly changes changes both ends alike.
Batching rules of other programs and ours, at the same sizes, are warm together and take turns at their slices.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from grove.bench.core.compare import PROBE_S, Say, start_peak
from grove.bench.core.estimate import Played
from grove.bench.core.gpu_watch import merged
from grove.bench.core.modes import Asked
from grove.bench.core.peak import Peak
from grove.bench.core.probe import burn_probe
from grove.bench.core.results import mean_visit_entropy
from grove.bench.core.slices import OthersUse, Slice, WarmPool
from grove.bench.sweep.points import Point, Team, check_team, point_plan, teams
from grove.bench.sweep.visits import Visit, latest, read_visits
from grove.common.errors import GroveError
from grove.common.words import plural
from grove.records.log import LineLog
from grove.records.record import read_folder
from grove.workers.pool.plan import PoolPlan

SLICES = 3
"""Slices of a visit: their spread tells how sure a figure is."""
PAIRED_SLICES = 7
"""The same where pools take turns: of two equally fast ones, one is ahead in all seven pairs in 1.6 % of cases."""
LONGEST_PEAK_S = 1.0
"""Seconds of each measurement of the peak, of which a visit has two; a slice's length when that is shorter."""
_BESIDE_S = 8.0
"""Seconds that a visit takes beside its measuring, to say beforehand how long a sweep may last."""
VISITS_FILE = "visits.jsonl"


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What is swept; resolved settings."""

    asked: Asked
    """The base of every point; `seconds` are those of measuring in one visit, `out` is the sweep's folder."""
    points: tuple[Point, ...]
    visits: int
    """Visits of every point."""

    def todo(self, done: Sequence[Visit]) -> list[tuple[Team, int]]:
        """Return the visits that are still to be made, failed ones included: forwards, then backwards, and so on.

        Those who are measured together are visited again together.
        """
        good = {(visit.point.key, visit.number) for visit in done if not visit.failure}
        every = teams(self.points)
        wanted = [(team, number) for number in range(self.visits) for team in (every[::-1] if number % 2 else every)]
        return [(team, number) for team, number in wanted if {(point.key, number) for point in team} - good]


def run_sweep(plan: SweepPlan, say: Say, after_visit: Callable[[Sequence[Visit]], Any]) -> list[Visit]:
    """Make the visits that the folder does not hold yet and return all of them; every process has ended by then.

    A point that cannot be measured is a visit with its failure; the next run tries it again. `after_visit` is given
    all visits so far after each.

    Raises:
        GroveError: the network cannot be run at all, or the folder cannot be written.
    """
    path = plan.asked.out / VISITS_FILE
    visits = read_visits(path)
    todo = plan.todo(visits)
    count = sum(len(team) for team, _ in todo)
    minutes = plural(math.ceil(count * (plan.asked.seconds + _BESIDE_S) / 60), "minutes")
    say(f"{plural(len(plan.points), 'points')}, {plural(count, 'visits')} to make: about {minutes} on an idle machine")
    made = 0
    with ExitStack() as stack, LineLog(path, 0.0) as log:
        visitor = _Visitor(plan.asked, stack, say)
        for team, number in todo:
            for visit in visitor.visit(team, number):
                made += 1
                log.write(visit.line())
                visits = latest([*visits, visit])
                say(f"{made} of {count}: {visit.point}: {_outcome(visit)}")
            after_visit(visits)
    return visits


class _Visitor:
    """Makes visits; the peak is started for the first that gets so far."""

    def __init__(self, asked: Asked, stack: ExitStack, say: Say) -> None:
        self._asked, self._stack, self._say = asked, stack, say
        self._peak: Peak | None = None

    def visit(self, team: Team, number: int) -> list[Visit]:
        """Return for each point what a visit found, or why it found nothing."""
        failures = _refused(self._asked, team)
        playable = [point for point in team if point not in failures]
        found: list[Visit] = []
        if playable:
            peak = self._ready_peak()
            with ExitStack() as stack:
                warm = self._started(playable, number, stack, failures)
                try:
                    found = _measure(warm, peak, self._asked.seconds, number) if warm else []
                except (GroveError, OSError) as error:
                    failures |= dict.fromkeys(warm, _text(error))
        found += [Visit(point=point, number=number, time=_now(), failure=why) for point, why in failures.items()]
        return sorted(found, key=lambda visit: team.index(visit.point))

    def _started(
        self, points: Sequence[Point], number: int, stack: ExitStack, failures: dict[Point, str]
    ) -> dict[Point, _Warm]:
        """Start the points' pools, which `stack` ends; the others go on without those that fail."""
        warm: dict[Point, _Warm] = {}
        for point in points:
            folder = self._asked.out / "games" / f"{point.key}-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            began = time.perf_counter()
            pool = stack.enter_context(WarmPool(point.key, replace(self._plan(point), games_folder=folder)))
            try:
                pool.start()
                warm[point] = _Warm(pool, time.perf_counter() - began)
            except (GroveError, OSError) as error:  # OSError: the system gives no more processes or memory
                pool.pool.stop()
                failures[point] = _text(error)
        return warm

    def _plan(self, point: Point) -> PoolPlan:
        """Return the point's pool in the number format that was found best, but for `direct`
        (bench/core/compare.py)."""
        network = replace(self._asked.network, dtype=self._ready_peak().found["backend"]["dtype"])
        return point_plan(self._asked if point.mode == "direct" else replace(self._asked, network=network), point)

    def _ready_peak(self) -> Peak:
        if self._peak is None:
            self._peak = self._stack.enter_context(start_peak(self._asked, self._say))
        return self._peak


def _refused(asked: Asked, team: Team) -> dict[Point, str]:
    """Return which points cannot be played here, before anything is started, and why."""
    refused: dict[Point, str] = {}
    for point in team:
        try:
            point_plan(asked, point)
        except GroveError as error:
            refused[point] = _text(error)
    try:
        check_team(asked, tuple(point for point in team if point not in refused))
    except GroveError as error:
        refused |= dict.fromkeys((point for point in team if point not in refused), _text(error))
    return refused


class _Warm(NamedTuple):
    """A pool that is warm and quiet, and the seconds that took."""

    pool: WarmPool
    start_s: float


def _measure(warm: Mapping[Point, _Warm], peak: Peak, seconds: float, number: int) -> list[Visit]:
    """Return the visits of pools that take turns, `seconds` each."""
    count = SLICES if len(warm) == 1 else PAIRED_SLICES
    peak_s = min(seconds / count, LONGEST_PEAK_S)
    probes, peaks = [burn_probe(PROBE_S)], [peak.measure(peak_s)]
    before = {point: pool.pool.by_worker("evaluations") for point, (pool, _) in warm.items()}
    others = OthersUse()
    slices = _play({point: pool for point, (pool, _) in warm.items()}, seconds / count, count)
    others_cpu = others.look()
    peaks.append(peak.measure(peak_s))
    probes.append(burn_probe(PROBE_S))
    ended = _now()
    return [
        Visit(
            point=point,
            number=number,
            time=ended,
            start_s=start_s,
            slices=[asdict(part) for part in slices[point]],
            peak=peaks,
            probes=[(probe.one_core, probe.all_cores, probe.cores) for probe in probes],
            pool=_describe(pool, before[point], peak),
            gpus=merged(part.gpus for part in slices[point]),
            others_cpu=others_cpu,
        )
        for point, (pool, start_s) in warm.items()
    ]


def _play(pools: Mapping[Point, WarmPool], seconds: float, count: int) -> dict[Point, list[Slice]]:
    """Return `count` slices of every pool, which take turns at being the first."""
    slices: dict[Point, list[Slice]] = {point: [] for point in pools}
    order = list(pools)
    for _ in range(count):
        for point in order:
            slices[point].append(pools[point].play(seconds))
            for pool in pools.values():
                pool.look_after()
        order = [*order[1:], order[0]]
    return slices


def _describe(warm: WarmPool, before: Sequence[float], peak: Peak) -> dict[str, Any]:
    """Return what a pool says of itself once its slices are over."""
    pool, totals = warm.pool, warm.pool.totals()
    records = list(read_folder(pool.plan.games_folder))
    backend = pool.server_ready.get("backend") or peak.found["backend"]
    return {
        **asdict(pool.sizes),
        "lanes": pool.server_ready.get("lanes", 0),
        "device": backend["device"],
        "dtype": backend["dtype"] if pool.server_ready else pool.plan.network.dtype,
        "evaluations_by_worker": [b - a for a, b in zip(before, pool.by_worker("evaluations"), strict=True)],
        "played": Played.of(totals, [len(record.moves) for record in records]),
        "mean_visit_entropy": mean_visit_entropy(record.visits for record in records),
        "mean_game_moves": _mean([len(record.moves) for record in records]),
        "mean_game_examples": _mean([len(record.moves) - record.visits.count(None) for record in records]),
        "worker_peak_rss_mb": totals.get("peak_rss_mb"),
        "server_peak_rss_mb": pool.server_stats.get("peak_rss_mb"),
        "workers_restarted": pool.restarted,
    }


def _mean(counts: Sequence[int]) -> float | None:
    return sum(counts) / len(counts) if counts else None


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _outcome(visit: Visit) -> str:
    if visit.failure:
        return f"failed: {visit.failure}"
    rows = sum(part["workers"].get("evaluations", 0) for part in visit.slices)
    return f"{rows / sum(part['seconds'] for part in visit.slices):,.0f} evaluations/s"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
