"""From a profile's slices to profile.json: stages per step and per row that add up, interpreter time, top functions."""

from __future__ import annotations

import pstats
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grove.bench.core.rounds import usual_probe
from grove.bench.core.slices import Slice
from grove.bench.profile.profile import Profiled
from grove.bench.profile.stages import CPU, OTHER, PAUSED, Snapshot, from_counters

TOLERANCE = 0.03
"""Stages and wall clock may differ by this share: two processes read two clocks at slightly different moments."""
TOP = 30
"""Functions of cProfile that are listed."""
IO_THREAD = "zmq-channel"
_WORKER_ORDER = ("ask", "step", "observe", "pack", "send", "stage", "wait", "unpack", "compute", "tell", "play")
_WORKER_LAST = ("record", "start", "messages", OTHER)
_SERVER_ORDER = ("receive", "stage", "compute", "reply", "look after", "wait", OTHER)

Figures = dict[str, Any]


def figures_of(found: Profiled, gil_lap_s: float | None) -> Figures:
    """Return the measured part of profile.json. `gil_lap_s`: the lock's share of a step by workers/gil.py, if known."""
    assert found.staged, "all passes are over"
    assert found.watched, "all passes are over"
    assert found.plain, "all passes are over"
    passes = {"stages": found.staged, "cprofile": found.watched, "undisturbed": found.plain}
    workers = worker_part(found.staged, found.workers)
    return {
        "load": {
            "pool": found.pool,
            "workers": found.workers,
            "games_per_worker": found.games_per_worker,
            "groups": found.groups,
            "backend": found.ready.get("backend", {}),
            "lanes": found.ready.get("lanes", 0),
        },
        "passes": {name: _rates(part) for name, part in passes.items()},
        "machine_beside": _beside(found),
        "tolerance": TOLERANCE,
        "timers": _timers(found, workers),
        "workers": workers,
        "server": server_part(found.staged),
        "interpreter": _interpreter(found, workers, gil_lap_s),
        "py_spy": {
            "fault": found.py_spy_fault,
            "flames": found.flames.files,
            "faults": found.flames.faults,
            "gil_faults": found.gil_faults,
        },
    }


def _beside(found: Profiled) -> Figures:
    """Return how far the machine's speed moved, and what other programs took of it, in the worst pass."""
    usual = usual_probe(found.beside)
    others = [one.others_cpu for one in found.beside if one.others_cpu is not None]
    moved = max(one.moved(usual) for one in found.beside)
    return {"probe_moved": moved, "others_cpu": max(others, default=None)}


def worker_part(part: Slice, workers: int) -> Figures:
    """Return the stages of all workers together; `wall_seconds` is the supervisor's clock times workers."""
    stages = from_counters(part.workers)
    stages.pop(PAUSED, None)
    laps, rows = int(part.workers.get("requests", 0)), int(part.workers.get("evaluations", 0))
    times = part.seconds * workers, part.workers.get(CPU, 0.0)
    return {"threads": workers, **_part(stages, times, (laps, rows), (*_WORKER_ORDER, *_WORKER_LAST))}


def server_part(part: Slice) -> Figures:
    """Return the stages of each of the server's threads that did anything, and of all lanes and I/O by stage."""
    laps, rows = int(part.server.get("requests", 0)), int(part.server.get("rows", 0))
    threads: Mapping[str, Mapping[str, Any]] = part.server.get("stages", {})
    parts = {
        name: _part(thread["stages"], (part.seconds, thread["cpu"]), (laps, rows), _SERVER_ORDER)
        for name, thread in sorted(threads.items())
        if any(calls for _, calls in thread["stages"].values())
    }
    return {"batches": int(part.server.get("batches", 0)), "laps": laps, "rows": rows, "threads": parts}


def _part(stages: Snapshot, times: tuple[float, float], counts: tuple[int, int], order: tuple[str, ...]) -> Figures:
    """Return the figures of one table. `times`: wall and processor seconds; `counts`: steps and rows."""
    wall_s, cpu_s = times
    laps, rows = counts
    known = [name for name in order if name in stages]
    names = known + [name for name in stages if name not in known]
    total = sum(wall for wall, _ in stages.values())
    return {
        "wall_seconds": wall_s,
        "sum_seconds": total,
        "unaccounted_share": 1 - total / wall_s,
        "adds_up": abs(1 - total / wall_s) <= TOLERANCE,
        "cpu_seconds": cpu_s,
        "laps": laps,
        "rows": rows,
        "stages": [{"stage": name, **_stage(stages[name], wall_s, laps, rows)} for name in names],
    }


def _stage(total: list[float], wall_s: float, laps: int, rows: int) -> Figures:
    wall, calls = total
    return {
        "seconds": wall,
        "share": wall / wall_s,
        "calls": int(calls),
        "us_per_lap": wall / laps * 1e6 if laps else None,
        "us_per_row": wall / rows * 1e6 if rows else None,
    }


def _rates(part: Slice) -> Figures:
    return {
        "seconds": part.seconds,
        "evaluations_per_second": part.evaluations_per_second,
        "simulations_per_second": part.simulations_per_second,
        "laps_per_second": part.workers.get("requests", 0) / part.seconds,
        "cpu_seconds": part.cpu_seconds,
    }


def _timers(found: Profiled, workers: Figures) -> Figures:
    """Return what the stage timers themselves took of the workers' time, by the price of one timed call."""
    calls = sum(stage["calls"] for stage in workers["stages"])
    return {"us_per_call": found.switch_s * 1e6, "share": calls * found.switch_s / workers["wall_seconds"]}


def _interpreter(found: Profiled, workers: Figures, gil_lap_s: float | None) -> Figures:
    """Return who uses the interpreters: processor time bounds it from above, py-spy counts who held the lock."""
    assert found.staged is not None, "all passes are over"
    seconds = found.staged.seconds
    threads = server_part(found.staged)["threads"]
    held = found.gil.get("server", {})
    laps = workers["laps"] / seconds
    own = laps if found.pool == "thread" else laps / max(found.workers, 1)  # one lock for all threads, or one each
    return {
        "io_thread": IO_THREAD if IO_THREAD in threads else None,
        "io_thread_cpu_share": threads[IO_THREAD]["cpu_seconds"] / seconds if IO_THREAD in threads else None,
        "io_thread_gil_share": held.get(IO_THREAD, 0.0) if "server" in found.gil and IO_THREAD in threads else None,
        "search_gil_us_per_lap": gil_lap_s * 1e6 if gil_lap_s is not None else None,
        "search_gil_share": gil_lap_s * own if gil_lap_s is not None else None,
        "gil_by_thread": found.gil,
    }


def top_functions(path: Path, most: int = TOP) -> list[Figures]:
    """Return the functions in a pstats file that took the most time themselves, the file's worst first."""
    stats = pstats.Stats(str(path)).strip_dirs()
    rows = [
        {"function": _name(key), "calls": calls, "own_seconds": own, "total_seconds": total}
        for key, (_, calls, own, total, _) in stats.stats.items()  # type: ignore[attr-defined]
    ]
    return sorted(rows, key=lambda row: -float(row["own_seconds"]))[:most]


def _name(key: tuple[str, int, str]) -> str:
    file, line, name = key
    return name if file == "~" else f"{name} ({file}:{line})"
