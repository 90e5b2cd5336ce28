"""The self-play loop of one worker: the same code for every evaluator and every pool.

The worker holds two or more groups. While one group's rows are away, the next one asks; an answer is told to its
group, which searches on, plays decided moves, saves finished games, and asks again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path

import numpy as np

from grove.common.errors import ChannelError
from grove.common.usage import peak_rss_mb
from grove.game.contract import Game
from grove.inference_server import Client
from grove.mcts import make_cache
from grove.records.log import GameLog
from grove.workers.selfplay.control_pipe import ControlPipe
from grove.workers.selfplay.evaluators import submit
from grove.workers.selfplay.group import Group, Ints, Tally
from grove.workers.selfplay.job import WorkerJob

REPORT_S = 0.5
"""Seconds between a worker's reports; often enough for a live view, seldom enough to cost nothing."""
WAIT_S = 0.1
"""Longest wait for an answer before the worker looks at its pipe."""
REST_S = 5.0
"""Longest wait of a paused worker, which only its pipe can wake; it uses no processor meanwhile."""
LISTEN_S = 0.002
"""Seconds between two looks at the pipe while rows are away; a look costs a system call."""
MOST_FAILURES = 50
"""Answers in a row that may contain failed rows before the worker gives up."""


class Worker:
    """Plays the games whose indices come through `pipe`, until told to stop."""

    def __init__(self, job: WorkerJob, game: Game, evaluator: Client, pipe: ControlPipe) -> None:
        self._job, self._evaluator, self._pipe = job, evaluator, pipe
        self._cache = make_cache(game, job.search)
        sizes = [len(part) for part in np.array_split(np.arange(job.games), job.groups) if len(part)]
        self._groups = [Group(game, job.game_spec, job.search, size, self._cache) for size in sizes]
        self._idle = deque(self._groups)
        self._away: dict[int, tuple[Group, Ints]] = {}  # ticket -> whose rows, and which
        self._indices: deque[int] = deque()
        self._log = GameLog(Path(job.log_path), job.fsync_every_s)
        self._stopping = self._draining = self._paused = self._at_rest = False
        self._window = -1
        self._failures = 0
        self._waited_s = 0.0
        self._reported = self._listened = 0.0

    def run(self) -> None:
        """Play until told to stop or until the supervisor is gone; finished games are on disk then."""
        self._pipe.send("ready", threading.get_native_id())
        try:
            while not self._stopping and not (self._draining and not self._playing):
                self._listen()
                if not self._paused:
                    for _ in range(len(self._idle)):
                        self._turn(self._idle.popleft())
                self._collect()
                self._report()
        finally:
            self._log.close()
            self._evaluator.close()
        self._pipe.send("bye", self._stats())

    @property
    def _playing(self) -> bool:
        return any(group.playing for group in self._groups)

    def _listen(self) -> None:
        """Take all waiting messages; with nothing to do, wait for one."""
        now = time.monotonic()
        if self._away and now - self._listened < LISTEN_S:
            return
        self._listened = now
        busy = self._away or (not self._paused and any(g.playing or (g.free and self._indices) for g in self._idle))
        message = self._pipe.receive(0.0 if busy else REST_S if self._at_rest else WAIT_S)
        while message is not None:
            kind, *values = message
            if kind == "indices":
                self._indices.extend(values[0])
            elif kind == "stop":
                self._stopping = True
                return
            elif kind == "drain":
                self._draining, self._paused = True, False
                self._indices.clear()
                return
            else:
                self._paused = kind == "pause"
                self._at_rest = self._at_rest and self._paused  # each pause is answered, also one right after a resume
            message = self._pipe.receive()

    def _turn(self, group: Group) -> None:
        """Let `group` search until every tree waits for an answer, and send its rows."""
        while True:
            self._start_games(group)
            decided = group.search()
            if group.may_wait(len(decided)):
                break
            group.play(decided)
            if group.finished:
                self._save(group)
        rows = group.ask()
        if len(rows.ids):
            self._away[submit(self._evaluator, rows)] = group, rows.ids.copy()
        else:
            self._idle.append(group)
        self._set_window()

    def _start_games(self, group: Group) -> None:
        count = min(len(group.free), len(self._indices))
        if count:
            first = self._job.stagger and not group.tally.decisions
            indices = [self._indices.popleft() for _ in range(count)]
            group.start(self._job.run_seed, indices, first)
            if group.finished:
                self._save(group)

    def _save(self, group: Group) -> None:
        records, group.finished = group.finished, []
        for record in records:
            self._log.append(record)
        self._pipe.send("finished", [record.index for record in records])

    def _set_window(self) -> None:
        """Tell the evaluator how many groups still play, so that nobody waits for one that does not."""
        window = sum(1 for group in self._groups if group.playing)
        if window != self._window:
            self._window = window
            self._evaluator.set_window(window)

    def _collect(self) -> None:
        """Wait for one answer and tell it to its group."""
        if not self._away:
            return
        started = time.perf_counter()
        answer = self._evaluator.collect(WAIT_S)
        self._waited_s += time.perf_counter() - started
        if answer is not None:
            group, ids = self._away.pop(answer.ticket)
            self._failures = self._failures + 1 if group.tell(ids, answer) else 0
            self._idle.append(group)
            if self._failures > MOST_FAILURES:
                raise ChannelError(f"{self._failures} answers in a row had failed rows; see the server's log")

    def _report(self) -> None:
        """Report and sync every now and then; paused, report once and at once when the last answer is in."""
        was_at_rest, self._at_rest = self._at_rest, self._paused and not self._away
        now = time.monotonic()
        if self._at_rest:
            if not was_at_rest:
                self._pipe.send("rest", self._stats())
        elif now - self._reported >= REPORT_S:
            self._reported = now
            self._log.sync_if_due()
            self._pipe.send("stats", self._stats())

    def _stats(self) -> dict[str, float]:
        """Return the worker's monotone counts, and its peak memory in MB."""
        totals: dict[str, float] = dict.fromkeys(Tally.__dataclass_fields__, 0)
        for group in self._groups:
            for name, value in asdict(group.tally).items():
                totals[name] += value
            totals["simulations"] += group.forest.simulations
        totals["cache_lookups"] = self._cache.lookups if self._cache else 0
        totals["cache_hits"] = self._cache.hits if self._cache else 0
        totals["waited_s"] = self._waited_s
        totals["in_progress"] = sum(group.playing for group in self._groups)
        totals["peak_rss_mb"] = peak_rss_mb()
        return totals
