"""A real, small network in exact integer arithmetic: what the server returns must equal it bit for bit."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from grove.common.errors import ModelError
from grove.inference_server import RowSpec

SPEC = RowSpec(
    game="connect_four",
    observation_shape=(2, 6, 7),
    observation_dtype="uint8",
    num_actions=7,
    num_players=2,
    zero_sum=True,
)
THREE_SEATS = RowSpec(
    game="three",
    observation_shape=(5, 3),
    observation_dtype="float32",
    num_actions=600,
    num_players=3,
    zero_sum=False,
)
VERSION = "0123456789abcdef"
POISON = 255
"""A row whose first number is this makes the whole batch fail."""


def compute(spec: RowSpec, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [n, A] and values [n, P or 1], a fixed function of each row."""
    flat = rows.reshape(len(rows), -1).astype(np.int64)
    size = math.prod(spec.observation_shape)
    weights = np.arange(1, size + 1)[:, None] * np.arange(3, spec.num_actions + 3)[None, :] % 101
    seats = np.arange(2, size + 2)[:, None] * np.arange(5, spec.value_size + 5)[None, :] % 31
    return ((flat @ weights) % 997 / 7).astype(np.float32), ((flat @ seats) % 199 / 200).astype(np.float32)


def random_rows(spec: RowSpec, count: int, seed: int) -> np.ndarray:
    """Return `count` random rows without poison."""
    rows = np.random.default_rng(seed).integers(0, 9, (count, *spec.observation_shape))
    return rows.astype(spec.observation_dtype)


def random_legal(spec: RowSpec, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ragged legal actions: offsets int64 [count + 1], actions int32; some rows have none."""
    random = np.random.default_rng(seed)
    masks = random.random((count, spec.num_actions)) < random.random((count, 1))
    offsets = np.concatenate([[0], np.cumsum(masks.sum(axis=1))]).astype(np.int64)
    return offsets, np.nonzero(masks)[1].astype(np.int32)


class Model(NamedTuple):
    """The network's only weight: what it adds to every logit; and its name."""

    version: str
    added: float


class ArithmeticBackend:
    """One lane computing `compute`; can be slow, be held, and fail on poisoned rows."""

    def __init__(
        self, spec: RowSpec, buckets: tuple[int, ...] = (8, 16, 32), seconds: float = 0.0, depth: int = 1
    ) -> None:
        self.spec = spec
        self.buckets = buckets
        self.depth = depth
        self.models = {0: Model(VERSION, 0)}  # by the number of their weights
        self.seconds = seconds
        self.may_run = threading.Event()
        self.may_run.set()
        self.closed = 0
        self.batches: list[tuple[int, int]] = []  # rows and bucket of each batch launched
        self._logits = np.zeros((buckets[-1], spec.num_actions), np.float32)
        self._values = np.zeros((buckets[-1], spec.value_size), np.float32)

    def warm(self) -> None:
        """Nothing to prepare."""

    def done(self, handle: Any) -> bool:
        """Whether the batch's time is over, and the backend is not held."""
        return self.may_run.is_set() and time.monotonic() >= handle[2]

    def new_host_buffer(self) -> np.ndarray:
        """An uninitialised buffer."""
        return np.empty((self.buckets[-1], *self.spec.observation_shape), self.spec.observation_dtype)

    def version_of(self, weights: int = 0) -> str:
        """Name of a model."""
        return self.models[weights].version

    def prepare(self, model: Model) -> Model:
        """Any model will do, but one."""
        if model.added != model.added:
            raise ModelError("the weights hold NaN")
        return model

    def try_out(self, prepared: Model) -> None:
        """Nothing to try."""

    def install(self, weights: int, prepared: Model) -> None:
        """Keep a model under a new number."""
        assert weights not in self.models
        self.models[weights] = prepared

    def remove(self, weights: int) -> None:
        """Take a model away."""
        del self.models[weights]

    def close(self) -> None:
        """Nothing to give back."""
        self.closed += 1

    def launch(self, buffer: np.ndarray, rows: int, bucket: int, weights: int = 0) -> Any:
        """Start a batch."""
        assert rows <= bucket
        assert bucket in self.buckets
        self.batches.append((rows, bucket))
        return buffer, rows, time.monotonic() + self.seconds, self.models[weights].added

    def finish(self, handle: Any) -> tuple[np.ndarray, np.ndarray]:
        """Compute it; the arrays returned are used again by the next call."""
        buffer, rows, ready_at, added = handle
        assert self.may_run.wait(60)
        time.sleep(max(ready_at - time.monotonic(), 0))
        if np.any(buffer[:rows].reshape(rows, -1)[:, 0] == POISON):
            raise FloatingPointError("poisoned row")
        self._logits[:rows], self._values[:rows] = compute(self.spec, buffer[:rows])
        self._logits[:rows] += added
        return self._logits[:rows], self._values[:rows]
