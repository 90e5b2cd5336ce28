"""Pending batches: rows gathered in host buffers, one row of batches per model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from grove.inference_server.batching.request import Part, Request
from grove.inference_server.interface.client import Rows


class Batch:
    """Rows of one model in one host buffer, and the requests they belong to."""

    __slots__ = ("bucket", "buffer", "dispatched_ns", "lane", "parts", "rows", "weights_id")

    def __init__(self, buffer: Rows, weights_id: int) -> None:
        self.buffer = buffer  # [top bucket, *observation_shape]; rows behind `rows` are padding
        self.weights_id = weights_id
        self.rows = 0
        self.parts: list[Part] = []
        self.lane = -1  # the last three are set when the batch leaves
        self.bucket = 0
        self.dispatched_ns = 0


class PendingBatches:
    """The waiting rows of all models; not thread-safe."""

    def __init__(self, top: int, new_buffer: Callable[[], Rows]) -> None:
        self._top = top
        self._new_buffer = new_buffer
        self._spare: list[Rows] = []  # buffers are kept for good: pinned memory is dear to allocate
        self._pending: dict[int, deque[Batch]] = {}

    def limit_rows(self, rows: int) -> None:
        """Begin no batch of more than `rows` rows any more; those that have more are cut when they leave."""
        self._top = rows

    def forget(self, weights_id: int) -> None:
        """`weights_id` gets no rows any more, and none wait."""
        self._pending.pop(weights_id, None)

    def reserve(self, buffers: int = 1) -> None:
        """Have that many spare buffers, so that what follows cannot fail half-way; raises what `new_buffer` raises."""
        while len(self._spare) < buffers:
            self._spare.append(self._new_buffer())

    def add(self, request: Request, rows: Rows, weights_id: int) -> None:
        """Copy all rows of a request behind those already waiting, over as many batches as they need.

        Raises what `new_buffer` raises; then nothing was added.
        """
        pending = self._pending.get(weights_id)
        room = max(self._top - pending[-1].rows, 0) if pending else 0
        start, total = 0, request.rows
        self.reserve(-(-max(total - room, 0) // self._top))
        if pending is None:
            pending = self._pending[weights_id] = deque()
        while start < total:
            if not pending or pending[-1].rows >= self._top:
                pending.append(self._open(weights_id))
            batch = pending[-1]
            at = batch.rows
            count = min(total - start, self._top - at)
            batch.buffer[at : at + count] = rows[start : start + count]
            batch.parts.append(Part(request, start, at, count))
            batch.rows = at + count
            start += count

    def take(self, weights_id: int, rows: int) -> Batch:
        """Return a batch of exactly the `rows` oldest rows of `weights_id` (at most the top bucket, and that many
        wait).

        Rows are moved only when a batch is shared among lanes, which needs a spare buffer (`reserve`); otherwise the
        first pending batch leaves as it is.
        """
        pending = self._pending[weights_id]
        batch = pending[0]
        if batch.rows > rows:
            batch = self._open(weights_id)
            self._move(pending[0], batch, rows)
            return batch
        while batch.rows < rows:
            self._move(pending[1], batch, min(rows - batch.rows, pending[1].rows))
            if not pending[1].rows:
                self.recycle(pending[1])
                del pending[1]
        pending.popleft()
        return batch

    def recycle(self, batch: Batch) -> None:
        """Take back the buffer of a batch that is done with."""
        self._spare.append(batch.buffer)

    def _open(self, weights_id: int) -> Batch:
        return Batch(self._spare.pop(), weights_id)

    @staticmethod
    def _move(source: Batch, target: Batch, count: int) -> None:
        """Move the first `count` rows of `source` behind those of `target` and close the gap."""
        at, left = target.rows, source.rows - count
        target.buffer[at : at + count] = source.buffer[:count]
        source.buffer[:left] = source.buffer[count : source.rows]
        target.rows, source.rows = at + count, left
        parts, source.parts = source.parts, []
        for request, start, place, rows in parts:
            moved = min(max(count - place, 0), rows)
            if moved:
                target.parts.append(Part(request, start, at + place, moved))
            if moved < rows:
                source.parts.append(Part(request, start + moved, max(place - count, 0), rows - moved))
