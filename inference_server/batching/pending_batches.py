"""The waiting rows: gathered in host buffers as they arrive, one queue of batches for each set of weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from grove.inference_server.batching.request import Part, Request
from grove.inference_server.interface.client import Rows


class Batch:
    """Rows for one set of weights in one host buffer, the requests they belong to, and what became of them."""

    __slots__ = (
        "bucket", "buffer", "compute_us", "dispatched_ns", "error", "failed", "lane", "parts", "rows", "version",
        "weights",
    )  # fmt: skip

    def __init__(self, buffer: Rows, weights: int) -> None:
        self.buffer = buffer  # [top bucket, *observation_shape]; rows behind `rows` are padding
        self.weights = weights
        self.rows = 0
        self.parts: list[Part] = []
        # Set when the batch leaves:
        self.lane = -1
        self.bucket = 0
        self.dispatched_ns = 0
        # Set by the lane:
        self.version = ""
        self.compute_us = 0
        self.failed: tuple[int, ...] = ()  # rows that have no outputs, ascending; empty as a rule
        self.error = ""  # why they have none


class Queue:
    """The waiting rows, at least one, for one set of weights, oldest first."""

    __slots__ = ("batches", "rows", "weights")

    def __init__(self, weights: int) -> None:
        self.weights = weights
        self.rows = 0
        self.batches: deque[Batch] = deque()

    @property
    def oldest_ns(self) -> int:
        """When the oldest row arrived."""
        return self.batches[0].parts[0].request.arrived_ns

    @property
    def oldest_rows(self) -> int:
        """Rows of the oldest request that lie in one batch."""
        return self.batches[0].parts[0].rows


class PendingBatches:
    """All waiting rows; not thread-safe."""

    def __init__(self, top: int, new_buffer: Callable[[], Rows]) -> None:
        self._top = top
        self._new_buffer = new_buffer
        self._spare: list[Rows] = []  # buffers are kept for good: pinned memory is dear to allocate
        self._queues: dict[int, Queue] = {}  # by weights; only those that have rows

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(queue.rows for queue in self._queues.values())

    def queues(self) -> list[Queue]:
        """Return the rows that wait for each set of weights, the oldest first."""
        queues = list(self._queues.values())
        if len(queues) > 1:
            queues.sort(key=lambda queue: queue.oldest_ns)
        return queues

    def waits(self, weights: int) -> bool:
        """Whether rows wait for `weights`."""
        return weights in self._queues

    def limit_rows(self, rows: int) -> None:
        """Begin no batch of more than `rows` rows any more; those that have more are cut when they leave."""
        self._top = rows

    def reserve(self, buffers: int = 1) -> None:
        """Have that many spare buffers, so that what follows cannot fail half-way; raises what `new_buffer` raises."""
        while len(self._spare) < buffers:
            self._spare.append(self._new_buffer())

    def add(self, request: Request, rows: Rows, weights: int) -> None:
        """Copy all rows of a request behind those already waiting, over as many batches as they need.

        Raises what `new_buffer` raises; then nothing was added.
        """
        queue = self._queues.get(weights)
        room = max(self._top - queue.batches[-1].rows, 0) if queue else 0
        start, total = 0, request.rows
        self.reserve(-(-max(total - room, 0) // self._top))
        if queue is None:
            queue = self._queues[weights] = Queue(weights)
        while start < total:
            if not queue.batches or queue.batches[-1].rows >= self._top:
                queue.batches.append(Batch(self._spare.pop(), weights))
            batch = queue.batches[-1]
            at = batch.rows
            count = min(total - start, self._top - at)
            batch.buffer[at : at + count] = rows[start : start + count]
            batch.parts.append(Part(request, start, at, count))
            batch.rows = at + count
            start += count
        queue.rows += total

    def take(self, weights: int, rows: int) -> Batch:
        """Return a batch of exactly the `rows` oldest rows for `weights` (at most the top bucket, and that many wait).

        Rows are moved only when a batch is shared among lanes, which needs a spare buffer (`reserve`); otherwise the
        first pending batch leaves as it is.
        """
        queue = self._queues[weights]
        queue.rows -= rows
        if not queue.rows:
            del self._queues[weights]
        batches = queue.batches
        batch = batches[0]
        if batch.rows > rows:
            batch = Batch(self._spare.pop(), weights)
            _move(batches[0], batch, rows)
            return batch
        while batch.rows < rows:
            _move(batches[1], batch, min(rows - batch.rows, batches[1].rows))
            if not batches[1].rows:
                self.recycle(batches[1])
                del batches[1]
        batches.popleft()
        return batch

    def recycle(self, batch: Batch) -> None:
        """Take back the buffer of a batch that is done with."""
        self._spare.append(batch.buffer)


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
