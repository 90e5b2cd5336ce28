"""Computing a batch again after a fault, by halves, so that only the rows at fault fail.

A batch that does not fit the device's memory is cut, too, and the server forms no batch of that size again. A device
that cannot compute a harmless row either is broken: everything fails, and the server says so, for its owner to end it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.pending_batches import Batch
from grove.inference_server.interface.buckets import bucket_for
from grove.inference_server.interface.client import Floats, Rows

_MOST_FAULTS = 64
"""Faulty pieces of one batch before it is not cut any further: bounds what one bad client can cost the others."""


class Computer(Protocol):
    """What is needed of a lane's backend."""

    def new_host_buffer(self) -> Rows: ...

    def launch(self, buffer: Rows, rows: int, bucket: int, weights: int = 0) -> Any: ...

    def finish(self, handle: Any) -> tuple[Floats, Floats]: ...


class Repair:
    """Computes broken batches of one lane; nothing may be under way on its backend meanwhile."""

    def __init__(self, backend: Computer, batcher: Batcher) -> None:
        self._backend, self._batcher = backend, batcher
        self._buffer: Rows | None = None  # made at the first fault
        self._faults = 0  # of the present batch
        self.pieces = 0
        """Pieces computed so far, to show that something goes on."""

    def compute(self, batch: Batch, fault: Exception) -> tuple[Floats, Floats]:
        """Return the outputs of `batch`, which failed as a whole with `fault`; its failed rows are noted in it."""
        spec = self._batcher.spec
        logits = np.zeros((batch.rows, spec.num_actions), np.float32)
        values = np.zeros((batch.rows, spec.value_size), np.float32)
        batch.error = f"{type(fault).__name__}: {fault}"
        self._batcher.count_error("out_of_memory" if out_of_memory(fault) else f"batch:{type(fault).__name__}")
        self._faults = 0
        zeros = np.zeros((1, *spec.observation_shape), spec.observation_dtype)  # every model computed them when taken
        try:
            self._outputs(zeros, batch.weights)
        except Exception:
            self._batcher.break_down(f"the device computes nothing any more ({batch.error})")
            batch.failed = tuple(range(batch.rows))
        else:
            batch.failed = tuple(self._halve(batch, (0, batch.rows), batch.bucket, fault, (logits, values)))
        return logits, values

    def _halve(
        self, batch: Batch, piece: tuple[int, int], bucket: int, fault: Exception, outputs: tuple[Floats, Floats]
    ) -> list[int]:
        """Compute rows start..end-1, which failed together, in halves, and these again; return those that remain."""
        start, end = piece
        self._faults += 1
        hopeless = out_of_memory(fault) and not self._shrink(bucket)
        if hopeless or end - start == 1 or self._faults > _MOST_FAULTS:
            return list(range(start, end))
        failed, middle = [], (start + end) // 2
        for half in ((start, middle), (middle, end)):
            rows, bucket = slice(*half), bucket_for(half[1] - half[0], self._batcher.buckets)
            try:
                outputs[0][rows], outputs[1][rows] = self._outputs(batch.buffer[rows], batch.weights)
            except Exception as error:
                failed += self._halve(batch, half, bucket, error, outputs)
        return failed

    def _outputs(self, rows: Rows, weights: int) -> tuple[Floats, Floats]:
        """Return the outputs of a few rows, computed from a buffer of their own."""
        self.pieces += 1
        if self._buffer is None:
            self._buffer = self._backend.new_host_buffer()
        self._buffer[: len(rows)] = rows
        bucket = bucket_for(len(rows), self._batcher.buckets)
        return self._backend.finish(self._backend.launch(self._buffer, len(rows), bucket, weights))

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
