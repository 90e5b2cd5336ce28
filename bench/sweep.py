"""A sweep: every point is visited in turn, each with a pool of its own, beside the roof and a burn probe.

Pools of hundreds of workers cannot all be kept warm, so a visit starts its pool, plays a few slices and stops it.
Points are visited again in the opposite order, so that a machine that slowly changes changes both ends alike.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from bench.compare import PROBE_S, Say, start_roof
from bench.modes import Asked
from bench.probe import burn_probe
from bench.results import mean_visit_entropy
from bench.roof import Roof
from bench.slices import WarmPool
from bench.sweep_points import Point, point_plan
from bench.visits import GpuWatch, Visit, latest, read_visits
from common.errors import GroveError
from workers.records import LineLog, read_folder

SLICES = 3
"""Slices of a visit: their spread tells how sure a figure is."""
LONGEST_ROOF_S = 1.0
"""Seconds of each measurement of the roof, of which a visit has two; a slice's length when that is shorter."""
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

    def todo(self, done: Sequence[Visit]) -> list[tuple[Point, int]]:
        """Return the visits that are still to be made, failed ones included: forwards, then backwards, and so on."""
        good = {(visit.point.key, visit.number) for visit in done if not visit.error}
        wanted = [
            (point, number)
            for number in range(self.visits)
            for point in (self.points[::-1] if number % 2 else self.points)
        ]
        return [(point, number) for point, number in wanted if (point.key, number) not in good]


def run_sweep(plan: SweepPlan, say: Say, after_visit: Callable[[Sequence[Visit]], Any]) -> list[Visit]:
    """Make the visits that the folder does not hold yet and return all of them; every process has ended by then.

    A point that cannot be measured is a visit with an error; the next run tries it again. `after_visit` is given all
    visits so far after each.

    Raises:
        GroveError: the network cannot be run at all, or the folder cannot be written.
    """
    path = plan.asked.out / VISITS_FILE
    visits = read_visits(path)
    todo = plan.todo(visits)
    minutes = len(todo) * (plan.asked.seconds + _BESIDE_S) / 60
    say(f"{len(plan.points)} points, {len(todo)} visits to make: about {minutes:.0f} minutes on an idle machine")
    with ExitStack() as stack, LineLog(path, 0.0) as log:
        visitor = _Visitor(plan.asked, stack, say)
        for place, (point, number) in enumerate(todo, start=1):
            visit = visitor.visit(point, number)
            log.write(visit.line())
            visits = latest([*visits, visit])
            say(f"{place} of {len(todo)}: {point}: {_outcome(visit)}")
            after_visit(visits)
    return visits


class _Visitor:
    """Makes visits; the roof is started for the first that gets so far."""

    def __init__(self, asked: Asked, stack: ExitStack, say: Say) -> None:
        self._asked, self._stack, self._say = asked, stack, say
        self._roof: Roof | None = None

    def visit(self, point: Point, number: int) -> Visit:
        """Return what a visit found, or why it found nothing."""
        folder = self._asked.out / "games" / f"{point.key}-{number}"
        try:
            point_plan(self._asked, point)  # refused before anything is started
        except GroveError as error:
            return _failed(point, number, error)
        roof = self._ready_roof()
        # Every point computes in the number format that was found best, but for `direct` (bench/compare.py).
        network = replace(self._asked.network, dtype=roof.found["backend"]["dtype"])
        asked = self._asked if point.mode == "direct" else replace(self._asked, network=network)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            with WarmPool(point.key, replace(point_plan(asked, point), games_folder=folder)) as warm:
                return _measure(warm, roof, asked, (point, number))
        except (GroveError, OSError) as error:  # OSError: the system gives no more processes or memory
            return _failed(point, number, error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ready_roof(self) -> Roof:
        if self._roof is None:
            self._roof = self._stack.enter_context(start_roof(self._asked, self._say))
        return self._roof


def _measure(warm: WarmPool, roof: Roof, asked: Asked, which: tuple[Point, int]) -> Visit:
    slice_s = asked.seconds / SLICES
    roof_s = min(slice_s, LONGEST_ROOF_S)
    began = time.perf_counter()
    warm.start()
    start_s = time.perf_counter() - began
    probes, roofs = [burn_probe(PROBE_S)], [roof.measure(roof_s)]
    before = warm.pool.by_worker("evaluations")
    with GpuWatch() as gpus:
        slices = [warm.play(slice_s) for _ in range(SLICES)]
    roofs.append(roof.measure(roof_s))
    probes.append(burn_probe(PROBE_S))
    return Visit(
        point=which[0],
        number=which[1],
        time=_now(),
        start_s=start_s,
        slices=[asdict(part) for part in slices],
        roof=roofs,
        probes=[(probe.one_core, probe.all_cores, probe.cores) for probe in probes],
        pool=_describe(warm, before, roof),
        gpus=gpus.figures(),
    )


def _describe(warm: WarmPool, before: Sequence[float], roof: Roof) -> dict[str, Any]:
    """Return what a pool says of itself once its slices are over."""
    pool, totals = warm.pool, warm.pool.totals()
    records = list(read_folder(pool.plan.games_folder))
    backend = pool.host_ready.get("backend") or roof.found["backend"]
    return {
        **asdict(pool.sizes),
        "lanes": pool.host_ready.get("lanes", 0),
        "device": backend["device"],
        "dtype": backend["dtype"] if pool.host_ready else pool.plan.network.dtype,
        "evaluations_by_worker": [b - a for a, b in zip(before, pool.by_worker("evaluations"), strict=True)],
        "mean_visit_entropy": mean_visit_entropy(record.visits for record in records),
        "mean_game_moves": sum(len(record.moves) for record in records) / len(records) if records else None,
        "worker_peak_rss_mb": totals.get("peak_rss_mb"),
        "server_peak_rss_mb": pool.host_stats.get("peak_rss_mb"),
        "workers_restarted": pool.restarted,
    }


def _failed(point: Point, number: int, error: Exception) -> Visit:
    return Visit(point=point, number=number, time=_now(), error=str(error) or type(error).__name__)


def _outcome(visit: Visit) -> str:
    if visit.error:
        return f"failed: {visit.error}"
    rows = sum(part["workers"].get("evaluations", 0) for part in visit.slices)
    return f"{rows / sum(part['seconds'] for part in visit.slices):,.0f} evaluations/s"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
