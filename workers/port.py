"""The pipe between a worker and its supervisor: small msgpack lists, `[kind, ...]`, in both directions.

    to the worker    indices [..] | pause | resume | stop
    to the parent    ready | finished [..] | stats {..} | failed text | bye {..}

A worker whose pipe ends has lost its supervisor and stops.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import msgpack


class Port:
    """The worker's end of the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, kind: str, *values: Any) -> None:
        """Send one message; a supervisor that is gone is noticed at the next `receive`."""
        try:
            self._connection.send_bytes(msgpack.packb([kind, *values]))
        except OSError:
            pass

    def receive(self, timeout_s: float = 0.0) -> list[Any] | None:
        """Return the next message, waiting up to `timeout_s`, or None; `["stop"]` when the supervisor is gone."""
        try:
            if not self._connection.poll(timeout_s):
                return None
            message: list[Any] = msgpack.unpackb(self._connection.recv_bytes())
            return message
        except (EOFError, OSError):
            return ["stop"]

    def close(self) -> None:
        """Close the pipe."""
        self._connection.close()
