"""A client as the batcher sees it, its requests, and how results come together again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from grove.inference_server.interface.client import Legal, Reply
from grove.inference_server.interface.rows import RowSpec

Floats = npt.NDArray[np.float32]

_NONE_FAILED = np.zeros(0, np.int32)


def _no_wake_up() -> None:
    """No-op wake-up for clients that do not block."""


class ClientHandle:
    """One client at the batcher. All fields are guarded by the batcher's lock."""

    __slots__ = ("deliver", "key", "left", "name", "outstanding", "spec", "wake")

    def __init__(self, name: str, spec: RowSpec, deliver: Callable[[Request], None]) -> None:
        self.key = -1  # given by the batcher
        self.name = name
        self.spec = spec
        self.deliver = deliver  # called under the lock with each answered request
        self.wake: Callable[[], None] = _no_wake_up  # called under the lock when the server closes
        self.outstanding = 0
        self.left = False


class Part(NamedTuple):
    """`rows` rows of `request` from its row `start` on, lying in a batch from row `at` on."""

    request: Request
    start: int
    at: int
    rows: int


class Request:
    """Rows of one client on their way through one or more batches."""

    __slots__ = (
        "arrived_ns", "batch_rows", "client", "compute_us", "error", "failed", "id", "legal", "logits", "queue_us",
        "remaining", "rows", "slot", "values", "version",
    )  # fmt: skip

    def __init__(self, client: ClientHandle, number: int, rows: int, legal: Legal | None) -> None:
        self.client = client
        self.id = number
        self.rows = rows
        self.legal = legal
        self.remaining = rows
        self.arrived_ns = time.monotonic_ns()
        self.logits: Floats | None = None
        self.values: Floats | None = None
        self.version = ""
        self.failed: list[int] = []
        self.error = ""
        self.batch_rows = self.queue_us = self.compute_us = self.slot = 0

    def slice_of(self, part: Part, logits: Floats, values: Floats) -> tuple[Floats, Floats]:
        """Return this part's logits (ragged if asked for) and values out of a batch's results; no lock needed."""
        end = part.at + part.rows
        if self.legal is None:
            return logits[part.at : end], values[part.at : end]
        offsets, actions = self.legal
        low, high = offsets[part.start], offsets[part.start + part.rows]
        counts = np.diff(offsets[part.start : part.start + part.rows + 1])
        return logits[np.repeat(np.arange(part.at, end), counts), actions[low:high]], values[part.at : end]

    def take(self, part: Part, piece: tuple[Floats, Floats], version: str) -> None:
        """Put a computed part in its place."""
        self.remaining -= part.rows
        self.version = version
        if part.rows == self.rows:
            self.logits, self.values = piece
            return
        logits, values = self._room()
        logits[self._logit_slice(part)] = piece[0]
        values[part.start : part.start + part.rows] = piece[1]

    def mark_failed(self, part: Part, rows: tuple[int, ...], error: str) -> None:
        """Mark those of a batch's `rows` that belong to a part just taken as failed; their results are zero."""
        mine = [part.start + row - part.at for row in rows if part.at <= row < part.at + part.rows]
        if mine:
            self.failed.extend(mine)
            self.error = error

    def _logit_slice(self, part: Part) -> slice:
        if self.legal is None:
            return slice(part.start, part.start + part.rows)
        return slice(int(self.legal[0][part.start]), int(self.legal[0][part.start + part.rows]))

    def _room(self) -> tuple[Floats, Floats]:
        if self.logits is None or self.values is None:
            spec = self.client.spec
            shape = (self.rows, spec.num_actions) if self.legal is None else (len(self.legal[1]),)
            self.logits = np.zeros(shape, np.float32)
            self.values = np.zeros((self.rows, spec.value_size), np.float32)
        return self.logits, self.values

    def reply(self) -> Reply:
        """Return the answer; only once no row remains."""
        logits, values = self._room()
        failed = np.array(sorted(self.failed), np.int32) if self.failed else _NONE_FAILED
        times = self.batch_rows, self.queue_us, self.compute_us
        return Reply(self.id, logits, values, self.version, failed, *times, self.error, self.slot)
