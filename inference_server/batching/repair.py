"""Computing a batch again after a fault, in pieces, so that only the rows at fault fail.

A batch that does not fit the device's memory is cut in halves, and the server forms no batch of that size again. Any
other fault is narrowed down by halves to the rows that cause it. A device that cannot compute a harmless row either is
broken: everything fails, and the server says so, for its owner to end it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, NamedTuple, Protocol

import numpy as np

from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.pending_batches import Batch
from grove.inference_server.batching.results import Floats, Results, rows_not_finite
from grove.inference_server.interface.client import Rows

_MOST_FAULTS = 64
"""Faulty pieces of one batch before it is not cut any further: bounds what one bad client can cost the others."""


class _Piece(NamedTuple):
    """Rows start..end-1 of a batch that failed together in a bucket."""

    start: int
    end: int
    bucket: int
    fault: Exception


class Computer(Protocol):
    """What is needed of a lane's backend."""

    def new_host_buffer(self) -> Rows: ...

    def launch(self, buffer: Rows, rows: int, bucket: int, slot: int = 0) -> Any: ...

    def finish(self, handle: Any) -> tuple[Floats, Floats]: ...


class Repair:
    """Computes broken batches of one lane; nothing may be under way on its backend meanwhile."""

    def __init__(self, backend: Computer, batcher: Batcher) -> None:
        self._backend, self._batcher = backend, batcher
        self._buffer: Rows | None = None  # made at the first fault
        self.pieces = 0
        """Pieces computed so far, to show that something goes on."""

    def compute(self, batch: Batch, version: str, fault: Exception) -> Results:
        """Return the results of `batch`, which failed as a whole with `fault`."""
        spec, text = self._batcher.spec, f"{type(fault).__name__}: {fault}"
        logits = np.zeros((batch.rows, spec.num_actions), np.float32)
        values = np.zeros((batch.rows, spec.value_size), np.float32)
        self._batcher.count_error("out_of_memory" if out_of_memory(fault) else f"batch:{type(fault).__name__}")
        if self._broken(batch.weights_id):
            self._batcher.break_down(f"the device computes nothing any more ({text})")
            return Results(logits, values, version, 0, tuple(range(batch.rows)), text)
        failed = self._narrow_down(batch, _Piece(0, batch.rows, batch.bucket, fault), logits, values)
        bad = sorted({*failed, *rows_not_finite(logits, values)})
        return Results(logits, values, version, 0, tuple(bad), text)

    def _narrow_down(self, batch: Batch, whole: _Piece, logits: Floats, values: Floats) -> list[int]:
        """Compute a faulty piece in halves, and these again, into logits and values; return the rows that remain."""
        failed: list[int] = []
        faulty, faults = [whole], 0
        while faulty:
            start, end, bucket, fault = faulty.pop()
            faults += 1
            hopeless = out_of_memory(fault) and not self._shrink(bucket)
            if hopeless or end - start == 1 or faults > _MOST_FAULTS:
                failed.extend(range(start, end))
                continue
            middle = (start + end) // 2
            for low, high in ((start, middle), (middle, end)):
                bucket = self._bucket(high - low)
                try:
                    logits[low:high], values[low:high] = self._outputs(batch.buffer[low:high], bucket, batch.weights_id)
                except Exception as error:
                    faulty.append(_Piece(low, high, bucket, error))
        return failed

    def _bucket(self, rows: int) -> int:
        buckets = self._batcher.buckets
        return buckets[bisect_left(buckets, rows)]

    def _outputs(self, rows: Rows, bucket: int, slot: int) -> tuple[Floats, Floats]:
        """Return the outputs of a few rows, computed from a buffer of their own."""
        self.pieces += 1
        if self._buffer is None:
            self._buffer = self._backend.new_host_buffer()
        self._buffer[: len(rows)] = rows
        return self._backend.finish(self._backend.launch(self._buffer, len(rows), bucket, slot))

    def _broken(self, slot: int) -> bool:
        """Whether even a row of zeros, which every model computed when it was taken, is too much."""
        spec = self._batcher.spec
        try:
            self._outputs(np.zeros((1, *spec.observation_shape), spec.observation_dtype), self._bucket(1), slot)
        except Exception:
            return True
        return False

    def _shrink(self, bucket: int) -> bool:
        """Form no batch of `bucket` rows any more, for half of them at most; return whether there is such a size."""
        smaller = [size for size in self._batcher.buckets if size <= bucket // 2]
        if smaller:
            self._batcher.limit_rows(smaller[-1])
        return bool(smaller)


def out_of_memory(fault: BaseException) -> bool:
    """Whether a fault of a backend says that the device's (or this machine's) memory does not suffice."""
    if isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError":
        return True
    text = str(fault).lower()
    return isinstance(fault, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
