"""A worker without the rest: its search with the test evaluator, and the writing of the games that came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from grove.bench.core.stage import Figures
from grove.game import load_game
from grove.mcts import SearchSettings, make_cache
from grove.records.log import GameLog
from grove.records.record import GameRecord
from grove.workers.selfplay.evaluators import HashEvaluator, row_spec
from grove.workers.selfplay.group import Group

_KEPT = 64
"""Games kept to be written, the last ones to end: those have been searched from the start, or nearly."""
_WARM_S = 0.2
_FIRST_GAME_S = 20.0
"""Longest wait for the first game to end, before the slices; without one the writer is not measured."""
_MOST_BYTES = 256 << 20
"""Bytes of games after which the writer stops early; a fast disk is known by then."""


@dataclass(frozen=True, kw_only=True)
class WorkerAlone:
    """The job: one worker as the pool has them; plain values."""

    game_spec: str
    run_seed: int
    search: SearchSettings
    games: int
    groups: int
    log_path: str
    """File that games are written to; removed after every slice."""

    @contextmanager
    def make(self) -> Iterator[_Worker]:
        """Return the worker, warm."""
        worker = _Worker(self)
        worker.warm()
        yield worker


class _Worker:
    """Searches all groups in turn, and writes what ended; see workers/selfplay/worker.py for the real one."""

    def __init__(self, job: WorkerAlone) -> None:
        self._job = job
        game = load_game(job.game_spec)
        cache = make_cache(game, job.search)
        sizes = [len(part) for part in np.array_split(np.arange(job.games), job.groups) if len(part)]
        self._groups = [Group(game, job.game_spec, job.search, size, cache) for size in sizes]
        self._evaluator = HashEvaluator(row_spec(game))
        self._indices = count()
        self._records: list[GameRecord] = []
        self._evaluator_s = 0.0

    def warm(self) -> None:
        """Search a while, and on until a game has ended."""
        began = time.perf_counter()
        self._search(_WARM_S)
        while not self._records and time.perf_counter() - began < _FIRST_GAME_S:
            self._search(_WARM_S)

    def ready(self) -> dict[str, Any]:
        """Return nothing of note."""
        return {"games": len(self._records)}

    def measure(self, what: str, seconds: float) -> Figures:
        """Return the figures of `search` or of `write`."""
        return self._search(seconds) if what == "search" else self._write(seconds)

    def _search(self, seconds: float) -> Figures:
        """Search; `seconds` and `cpu_seconds` are without the time of the test evaluator."""
        before, waited = self._tally(), self._evaluator_s
        began, used = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            for group in self._groups:
                self._turn(group)
        took, used = time.perf_counter() - began, time.process_time() - used
        evaluator = self._evaluator_s - waited
        done = {name: value - before[name] for name, value in self._tally().items()}
        return {"seconds": took - evaluator, "cpu_seconds": max(used - evaluator, 0.0), **done}

    def _turn(self, group: Group) -> None:
        while True:
            if group.free:
                group.start(self._job.run_seed, [next(self._indices) for _ in group.free], not group.tally.decisions)
            decided = group.forest.search()
            if group.may_wait(len(decided)):
                break
            group.play(decided)
            self._records = [*self._records, *group.finished][-_KEPT:] if group.finished else self._records
            group.finished.clear()
        rows = group.forest.ask()
        if not len(rows.ids):
            return
        ids, began = rows.ids.copy(), time.perf_counter()
        self._evaluator.submit(rows.observations)
        answer = self._evaluator.collect(0.0)
        self._evaluator_s += time.perf_counter() - began
        assert answer is not None, "the test evaluator answers at once"
        group.tell(ids, answer)

    def _tally(self) -> dict[str, float]:
        tallies = [group.tally for group in self._groups]
        return {
            "evaluations": sum(tally.evaluations for tally in tallies),
            "decisions": sum(tally.decisions for tally in tallies),
            "games": sum(tally.games for tally in tallies),
        }

    def _write(self, seconds: float) -> Figures:
        """Write the kept games again and again, and sync once at the end, as a worker does now and then."""
        if not self._records:
            return {"seconds": 0.0, "cpu_seconds": 0.0, "games": 0, "decisions": 0, "bytes": 0}
        path = Path(self._job.log_path)
        games = decisions = 0
        began, used = time.perf_counter(), time.process_time()
        with GameLog(path) as log:
            while time.perf_counter() - began < seconds and _size(path) < _MOST_BYTES:
                for record in self._records:
                    log.append(record)
                    games, decisions = games + 1, decisions + _decisions(record)
                    if time.perf_counter() - began >= seconds:
                        break
        took, used = time.perf_counter() - began, time.process_time() - used
        size = _size(path)
        path.unlink()
        return {"seconds": took, "cpu_seconds": used, "games": games, "decisions": decisions, "bytes": size}


def _decisions(record: GameRecord) -> int:
    return sum(1 for visits in record.visits if visits)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
