"""Lanes: one thread per device stream that pulls batches, computes them and hands the results back."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.pending_batches import Batch
from grove.inference_server.batching.repair import Repair
from grove.inference_server.interface.client import Floats

_IDLE_S = 0.5
"""Longest sleep of a lane without work; only how often its idle time is booked."""
_GLANCE_S = 0.0001
"""How long a lane with a batch under way looks out for the next one before it looks at the device again."""


class Backend(Protocol):
    """What a lane needs from the network's side; runs in the lane's thread, but for what is said to be for any."""

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes it computes, ascending rows."""
        ...

    @property
    def depth(self) -> int:
        """Batches worth launching before the oldest is finished: 1 on CPU, 2 on CUDA."""
        ...

    def version_of(self, weights: int = 0) -> str:
        """Content hash of weights, 16 hex digits."""
        ...

    def new_host_buffer(self) -> npt.NDArray[Any]:
        """Return a host array [top bucket, *observation_shape] of the observation dtype; for any thread."""
        ...

    def warm(self) -> None:
        """Get ready to compute; called once, first."""
        ...

    def done(self, handle: Any) -> bool:
        """Whether `finish` would not have to wait."""
        ...

    def launch(self, buffer: npt.NDArray[Any], rows: int, bucket: int, weights: int = 0) -> Any:
        """Start computing the first `rows` rows of `buffer`, padded to `bucket`, with those weights.

        Returns a handle for `finish`.
        """
        ...

    def finish(self, handle: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Wait for a launched batch; return logits [rows, A] and values [rows, P or 1], valid until the next call."""
        ...

    def prepare(self, model: Any) -> Any:
        """Return the weights of `model` (a `LoadedModel`) ready for this lane; for any thread, while the lane computes.

        Raises:
            ModelError: another architecture than the one served, or weights that hold NaN.
        """
        ...

    def try_out(self, prepared: Any) -> None:
        """Compute a batch of random rows with prepared weights; for any thread, while the lane computes.

        Raises:
            ModelError: the answers are not finite, or not the same twice.
        """
        ...

    def install(self, weights: int, prepared: Any) -> None:
        """Keep prepared weights under a new number; for any thread. Those the backend was made with have number 0."""
        ...

    def remove(self, weights: int) -> None:
        """Forget weights that no batch uses any more; for any thread."""
        ...

    def close(self) -> None:
        """Give up background work and device memory; called once no lane uses it. May be called twice."""
        ...


class _Launched(NamedTuple):
    batch: Batch
    handle: Any
    started_ns: int


class Lane(threading.Thread):
    """The loop of one lane: launch the next batch if one is ready, then finish the oldest one under way.

    A batch that raises is computed again in pieces (`repair.py`), so that only the rows at fault fail; rows whose
    outputs are not finite fail too. The lane goes on.
    """

    def __init__(self, index: int, backend: Backend, batcher: Batcher) -> None:
        super().__init__(name=f"lane-{index}", daemon=True)
        self._index = index
        self._backend = backend
        self._batcher = batcher
        self._stats = batcher.stats.lanes[index]
        self._under_way: deque[_Launched] = deque()
        self._free_at_ns = 0  # when the device finished its last batch
        self._repair = Repair(backend, batcher)
        self._done = 0  # batches
        self._computing = False
        self.warmed = threading.Event()
        self.fault: BaseException | None = None
        """Why the backend could not be made ready; set before `warmed`."""

    @property
    def progress(self) -> int:
        """A number that grows with everything computed; -1 while nothing is under way."""
        return self._done + self._repair.pieces if self._computing else -1

    def run(self) -> None:
        """Make the backend ready, then work until the batcher closes."""
        try:
            self._backend.warm()
        except Exception as error:
            self.fault = error
            return
        finally:
            self.warmed.set()
        try:
            while not self._batcher.closed:
                self._step()
            while self._under_way:
                self._finish(self._under_way.popleft())
        except Exception as error:  # nobody would pull this lane's batches any more
            self._computing = False
            self._batcher.count_error("ended_lane")
            self._batcher.break_down(f"lane {self._index} has ended: {type(error).__name__}: {error}")

    def _step(self) -> None:
        if not self._under_way:
            before_ns = time.monotonic_ns()
            batch = self._batcher.next_batch(self._index, _IDLE_S)
            self._stats.idle_ns += time.monotonic_ns() - before_ns
        else:
            batch = self._look_ahead()
        if batch is not None:
            self._launch(batch)
        if self._under_way and (batch is None or len(self._under_way) >= self._backend.depth):
            self._finish(self._under_way.popleft())

    def _look_ahead(self) -> Batch | None:
        """Return a further batch if one forms before the oldest one under way is computed."""
        handle = self._under_way[0].handle
        while not self._done_with(handle) and not self._batcher.closed:
            batch = self._batcher.next_batch(self._index, _GLANCE_S)
            if batch is not None:
                return batch
        return None

    def _done_with(self, handle: Any) -> bool:
        """Whether a batch is computed, or its device has a fault to tell: `finish` raises it again."""
        try:
            return self._backend.done(handle)
        except Exception:
            return True

    def _launch(self, batch: Batch) -> None:
        started_ns = time.monotonic_ns()
        batch.version = self._backend.version_of(batch.weights)
        self._computing = True
        try:
            handle = self._backend.launch(batch.buffer, batch.rows, batch.bucket, batch.weights)
        except Exception as error:
            self._compute_again(batch, error)
            return
        self._under_way.append(_Launched(batch, handle, started_ns))

    def _finish(self, launched: _Launched) -> None:
        batch = launched.batch
        try:
            logits, values = self._backend.finish(launched.handle)
            now_ns = time.monotonic_ns()
            busy_ns = now_ns - max(launched.started_ns, self._free_at_ns)
            self._free_at_ns = now_ns
            self._stats.busy_ns += busy_ns
            batch.compute_us = busy_ns // 1000
            self._complete(batch, logits, values)
        except Exception as error:
            self._compute_again(batch, error)
        self._done += 1
        self._computing = bool(self._under_way)

    def _complete(self, batch: Batch, logits: Floats, values: Floats) -> None:
        """Hand outputs out, but for rows that are not finite: such numbers never leave the server."""
        bad = rows_not_finite(logits, values)
        if bad:
            self._batcher.count_error("not_finite")
            batch.failed = tuple(sorted({*batch.failed, *bad}))
            batch.error = batch.error or "the network's outputs for these rows are not finite"
        self._batcher.complete(batch, logits, values)

    def _compute_again(self, batch: Batch, fault: Exception) -> None:
        """Compute a batch that failed in pieces, once nothing else is under way."""
        while self._under_way:
            self._finish(self._under_way.popleft())
        self._computing = True
        self._complete(batch, *self._repair.compute(batch, fault))
        self._done += 1
        self._computing = False


def rows_not_finite(logits: Floats, values: Floats) -> tuple[int, ...]:
    """Return the rows of [n, A] and [n, V] that hold NaN or infinity, ascending; 7 us for 512 rows of 7 actions."""
    numbers, also = np.isfinite(logits), np.isfinite(values)
    if numbers.all() and also.all():
        return ()
    return tuple(np.flatnonzero(~(numbers.all(axis=1) & also.all(axis=1))).tolist())
