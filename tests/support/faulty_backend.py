"""A real backend with faults at its edge: what a device may do wrong, at the place where it would."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.arithmetic_network import SPEC, ArithmeticBackend

NAN, INFINITE, RAISES = 200, 201, 202
"""Rows whose first number is this have NaN or infinite outputs, or make their batch raise."""


class FaultyBackend(ArithmeticBackend):
    """Computes what `ArithmeticBackend` does, but for the faults that are switched on."""

    def __init__(self, room: int = 1 << 30, **options: Any) -> None:
        super().__init__(SPEC, **options)
        self.room = room  # rows of the largest bucket that fits into memory
        self.memory_fault: Callable[[], Exception] = lambda: RuntimeError("CUDA error: out of memory")
        self.broken = False  # no batch is computed any more
        self.done_fault: Exception | None = None  # what asking whether a batch is done raises
        self.buffers = 1 << 30  # host buffers that there is memory for
        self.weights_gone = False
        self.hold = threading.Event()
        self.hold.set()

    def new_host_buffer(self) -> np.ndarray:
        self.buffers -= 1
        if self.buffers < 0:
            raise MemoryError("no room for a host buffer")
        return super().new_host_buffer()

    def version_of(self, weights: int = 0) -> str:
        if self.weights_gone:
            raise KeyError(weights)
        return super().version_of(weights)

    def done(self, handle: Any) -> bool:
        if self.done_fault is not None:
            raise self.done_fault
        return super().done(handle)

    def launch(self, buffer: np.ndarray, rows: int, bucket: int, weights: int = 0) -> Any:
        handle = super().launch(buffer, rows, bucket, weights)
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if bucket > self.room:
            raise self.memory_fault()
        return handle

    def finish(self, handle: Any) -> tuple[np.ndarray, np.ndarray]:
        self.hold.wait(60)
        logits, values = super().finish(handle)
        marks = handle[0][: handle[1]].reshape(handle[1], -1)[:, 0]
        if np.any(marks == RAISES):
            raise ValueError("this row is too much")
        logits[marks == NAN, -1] = np.nan
        values[marks == INFINITE, 0] = -np.inf
        return logits, values
