"""Grove's network as one lane runs it, for servers of other projects: rows in, answers out, any number of rows."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from grove.bench.peers.network import Floats
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.rows import RowSpec

VARIABLE = "GROVE_PEER_SERVER"
"""Environment variable that tells a server's processes what to serve, as JSON; it reaches however they start theirs."""


def told() -> dict[str, Any]:
    """Return what the supervisor told this server: `rows` (a row spec), `model`, `dtype`, `max_rows` of a batch,
    `max_messages` of one, `lanes`, `port` and `wait_ms`, the longest wait for a full batch."""
    found: dict[str, Any] = json.loads(os.environ[VARIABLE])
    return found


class LaneNetwork:
    """The network with the fused operators, number format and buckets of a lane of Grove's server."""

    def __init__(self) -> None:
        from grove.inference_server.backends.backend import make_backends

        job = told()
        spec = RowSpec.from_dict(job["rows"])
        settings = NetworkSettings(model=job["model"], dtype=job["dtype"])
        self._row = (spec.observation_dtype, (-1, *spec.observation_shape))
        self._backend = make_backends(spec, settings, job["max_rows"], lanes=1)[0]
        self._backend.warm()
        self._buffer = self._backend.new_host_buffer()

    def answer(self, messages: list[bytes]) -> list[bytes]:
        """Evaluate the rows of all messages in one batch; return logits and values of each message, float32 bytes."""
        from grove.inference_server.interface.buckets import bucket_for

        dtype, shape = self._row
        parts = [np.frombuffer(message, dtype).reshape(shape) for message in messages]
        ends = np.cumsum([len(part) for part in parts]).tolist()
        np.concatenate(parts, out=self._buffer[: ends[-1]])
        handle = self._backend.launch(self._buffer, ends[-1], bucket_for(ends[-1], self._backend.buckets))
        logits, values = self._backend.finish(handle)
        starts = [0, *ends[:-1]]
        return [pack(logits[a:b], values[a:b]) for a, b in zip(starts, ends, strict=True)]


def pack(logits: Floats, values: Floats) -> bytes:
    """Return the bytes of one message's answers."""
    return logits.tobytes() + values.tobytes()


def unpack(answer: bytes, rows: int, spec: RowSpec) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return logits [rows, A] and values [rows, V] of `pack`'s bytes; ValueError when there are more or fewer."""
    numbers = np.frombuffer(answer, np.float32)
    split = rows * spec.num_actions
    return numbers[:split].reshape(rows, -1), numbers[split:].reshape(rows, spec.value_size)
