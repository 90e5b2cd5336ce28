"""A client as the batcher sees it, its requests, and how the parts of an answer come together again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from grove.inference_server.interface.client import NONE_FAILED, Answer, Floats, Legal
from grove.inference_server.interface.rows import RowSpec


def _no_wake_up() -> None:
    """Do nothing: the wake-up of a client that does not block."""


class ClientHandle:
    """One client at the batcher. All fields are guarded by the batcher's lock."""

    __slots__ = ("deliver", "key", "left", "outstanding", "wake")

    def __init__(self, deliver: Callable[[Answer], None], wake: Callable[[], None] = _no_wake_up) -> None:
        self.key = -1  # given by the batcher
        self.deliver = deliver  # called under the lock with each answer
        self.wake = wake  # called under the lock when the server closes
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
        "arrived_ns",
        "client",
        "error",
        "failed",
        "legal",
        "logits",
        "remaining",
        "rows",
        "ticket",
        "values",
        "version",
    )  # fmt: skip

    def __init__(self, client: ClientHandle, ticket: int, rows: int, legal: Legal | None) -> None:
        self.client = client
        self.ticket = ticket
        self.rows = rows
        self.legal = legal
        self.remaining = rows
        self.arrived_ns = time.monotonic_ns()
        self.logits: Floats
        self.values: Floats
        self.version = ""
        self.failed: list[int] = []
        self.error = ""

    def slice_of(self, part: Part, logits: Floats, values: Floats) -> tuple[Floats, Floats]:
        """Return this part's logits (ragged if asked for) and values out of a batch's outputs; no lock needed."""
        end = part.at + part.rows
        if self.legal is None:
            return logits[part.at : end], values[part.at : end]
        offsets, actions = self.legal
        low, high = offsets[part.start], offsets[part.start + part.rows]
        counts = np.diff(offsets[part.start : part.start + part.rows + 1])
        return logits[np.repeat(np.arange(part.at, end), counts), actions[low:high]], values[part.at : end]

    def take(self, part: Part, piece: tuple[Floats, Floats], spec: RowSpec) -> None:
        """Put a computed part in its place."""
        if part.rows == self.rows:
            self.logits, self.values = piece
        else:
            if self.remaining == self.rows:
                shape = (self.rows, spec.num_actions) if self.legal is None else (len(self.legal[1]),)
                self.logits = np.zeros(shape, np.float32)
                self.values = np.zeros((self.rows, spec.value_size), np.float32)
            start, end = part.start, part.start + part.rows
            self.values[start:end] = piece[1]
            if self.legal is not None:
                start, end = int(self.legal[0][start]), int(self.legal[0][end])
            self.logits[start:end] = piece[0]
        self.remaining -= part.rows

    def mark_failed(self, part: Part, rows: tuple[int, ...], error: str) -> None:
        """Mark those of a batch's `rows` that belong to a part just taken as failed; their outputs are zero."""
        mine = [part.start + row - part.at for row in rows if part.at <= row < part.at + part.rows]
        if mine:
            self.failed.extend(mine)
            self.error = error

    def answer(self, batch_rows: int, queue_us: int, compute_us: int) -> Answer:
        """Return the answer; only once no row remains."""
        failed = np.array(sorted(self.failed), np.int32) if self.failed else NONE_FAILED
        times = batch_rows, queue_us, compute_us
        return Answer(self.ticket, self.logits, self.values, self.version, failed, *times, self.error)
