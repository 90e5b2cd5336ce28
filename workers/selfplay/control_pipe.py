"""The pipe between a worker, or the server's process, and the supervisor: small msgpack lists `[kind, ...]`.

    to a worker        indices [..] | pause | resume | drain (play what is begun, then end) | stop
                       again (a failed thread may start anew)
    from a worker      ready thread | finished [..] | stats {..} | rest {..} | bye {..}
                       failed text | unwritable text (its games cannot be saved)
    to the server      report | stop
    from the server    loading (it lives) | ready {..} | stats {..} | problem text | failed text

One whose pipe ends has lost its supervisor and stops.
"""

from __future__ import annotations

import contextlib
import select
import traceback
from multiprocessing.connection import Connection
from typing import Any

import msgpack

from grove.common.errors import GroveError


class ControlPipe:
    """One end of the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, kind: str, *values: Any) -> None:
        """Send one message; a partner that is gone is noticed at the next `receive`."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(msgpack.packb([kind, *values]))

    def receive(self, timeout_s: float = 0.0) -> list[Any] | None:
        """Return the next message, waiting up to `timeout_s`, or None; `["stop"]` when the partner is gone."""
        try:
            if not self._connection.poll(timeout_s):
                return None
            message: list[Any] = msgpack.unpackb(self._connection.recv_bytes())
            return message
        except (EOFError, OSError):
            return ["stop"]

    def has_room(self) -> bool:
        """Return whether a message of some kilobytes can be sent without waiting for the partner to read."""
        try:
            return bool(select.select([], [self._connection], [], 0)[1])
        except (OSError, ValueError):  # closed, or more descriptors than `select` knows: the partner reads fast enough
            return True

    def fileno(self) -> int:
        """Return the descriptor, for `multiprocessing.connection.wait`."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close the pipe."""
        self._connection.close()


def error_line(error: Exception) -> str:
    """Return `error` as one line for the supervisor; where it comes from, too, unless Grove raised it on purpose."""
    text = " ".join(str(error).split())
    if isinstance(error, GroveError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"
