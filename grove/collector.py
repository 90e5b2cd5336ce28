"""The callback form of an evaluator: requests of many games and threads leave together, as one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Callback = Callable[[Floats], object]


class BatchEvaluator(Protocol):
    """What computes the batches: a `ServerConnection`, or anything with this method."""

    def evaluate(self, observations: NDArray[Any]) -> tuple[Floats, Floats]:
        """Map observations [n, *shape] to logits float32 [n, A] and values float32 [n, V]."""
        ...


@dataclass(frozen=True, kw_only=True)
class CollectorStatistics:
    """What a collector has done so far."""

    requests: int = 0
    """Calls of `request_policy` and `request_value` that were answered."""
    rows: int = 0
    """Positions evaluated; one that was asked for several times in a batch counts once."""
    batches: int = 0
    largest_batch: int = 0


class PositionCollector:
    """Collects positions of all games and threads of a process, evaluates them together, and calls back.

        collector.request_policy(position.observe(), lambda logits: node.expand(logits))
        collector.request_value(position.observe(), lambda values: node.back_up(values))
        while collector.process_batches():   # callbacks may ask for more
            pass

    Any thread may request and any thread may process; callbacks run in the thread that calls `process_batches`.
    """

    def __init__(self, evaluator: BatchEvaluator) -> None:
        """`evaluator` is called by one thread at a time."""
        self._evaluator = evaluator
        self._waiting: list[tuple[NDArray[Any], int, Callback]] = []
        self._lock, self._evaluating = threading.Lock(), threading.Lock()
        self._statistics = CollectorStatistics()

    @property
    def statistics(self) -> CollectorStatistics:
        """Counts since the start."""
        return self._statistics

    def request_policy(self, state: NDArray[Any], callback: Callback) -> None:
        """Ask for the logits float32 [A] of `state`, an observation [*observation_shape], which is copied."""
        self._request(state, 0, callback)

    def request_value(self, state: NDArray[Any], callback: Callback) -> None:
        """Ask for the values float32 [V] of `state`: the seat to move first; V is 1 for a two-player zero-sum game."""
        self._request(state, 1, callback)

    def process_batches(self) -> int:
        """Evaluate all positions that wait, as one batch; call back; return how many callbacks were called.

        What callbacks request waits for the next call. When the evaluator raises, all requests wait on.
        """
        with self._evaluating:
            with self._lock:
                taken, self._waiting = self._waiting, []
            if not taken:
                return 0
            rows = {state.tobytes(): state for state, _, _ in taken}
            try:
                outputs = self._evaluator.evaluate(np.stack(list(rows.values())))
            except BaseException:
                with self._lock:
                    self._waiting = taken + self._waiting
                raise
            self._count(len(taken), len(rows))
        places = {key: place for place, key in enumerate(rows)}
        for state, kind, callback in taken:
            callback(outputs[kind][places[state.tobytes()]])
        return len(taken)

    def _count(self, requests: int, rows: int) -> None:
        done = self._statistics
        self._statistics = CollectorStatistics(
            requests=done.requests + requests,
            rows=done.rows + rows,
            batches=done.batches + 1,
            largest_batch=max(done.largest_batch, rows),
        )

    def _request(self, state: NDArray[Any], kind: int, callback: Callback) -> None:
        row = np.array(state)
        with self._lock:
            self._waiting.append((row, kind, callback))
