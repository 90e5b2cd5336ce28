"""A program's own connection to an inference server: rows in, logits and values out."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from grove.common.errors import ChannelError, MessageError
from grove.inference_server import Answer, RowSpec, ZmqClient
from grove.inference_server.channels.keys import ClientKeys

Floats = NDArray[np.float32]
_WAIT_S = 1.0


class ServerConnection:
    """Sends observations to an inference server; a context manager, used by one thread at a time.

    Made by `grove.connect`. It outlives a restart of the server: what was not answered is asked again.
    """

    def __init__(
        self, endpoint: str, rows: RowSpec, *, window: int = 8, max_rows: int = 1024, keys: ClientKeys | None = None
    ) -> None:
        """Connect; up to `window` requests of up to `max_rows` rows may be in flight.

        Raises:
            HandshakeError: the server refuses, with the remedy.
            ServerGone: no server answers.
        """
        self.rows = rows
        """Shape and dtype of the rows that the server evaluates, and of its answers."""
        self.window, self.max_rows = window, max_rows
        self._client = ZmqClient(endpoint, rows, window=window, max_rows=max_rows, keys=keys)
        self._in_flight = 0
        self._early: dict[int, Answer] = {}  # answers to `submit` that `evaluate` met while it waited for its own

    def evaluate(self, observations: NDArray[Any]) -> tuple[Floats, Floats]:
        """Evaluate n observations and wait for the answers; any n: many rows go out as several requests at once.

        Args:
            observations: [n, *rows.observation_shape], converted to rows.observation_dtype where no value changes.

        Returns:
            logits float32 [n, A], of illegal actions too, and values float32 [n, V] in [-1, 1]: the seat to move first,
            then clockwise; V is 1 for a two-player zero-sum game, otherwise one per seat.

        Raises:
            MessageError: rows of another shape or dtype.
            ChannelError: the server could not compute some of the rows.
            ServerGone: it has not answered for half a minute.
        """
        given = self._as_rows(observations)
        logits = np.zeros((len(given), self.rows.num_actions), np.float32)
        values = np.zeros((len(given), self.rows.value_size), np.float32)
        sent: dict[int, slice] = {}
        failed, error, start = 0, "", 0
        while start < len(given) or sent:
            if start < len(given) and self._in_flight < self.window:
                part = slice(start, start + self.max_rows)
                sent[self.submit(given[part])] = part
                start = part.stop
                continue
            answer = self._receive(_WAIT_S)
            if answer is None:
                continue
            if answer.ticket not in sent:
                self._early[answer.ticket] = answer
                continue
            part = sent.pop(answer.ticket)
            logits[part], values[part] = answer.logits, answer.values
            failed, error = failed + len(answer.failed), error or answer.error
        if failed:
            raise ChannelError(f"the server could not compute {failed} of {len(given)} rows: {error}")
        return logits, values

    def submit(self, observations: NDArray[Any]) -> int:
        """Send 1 to `max_rows` observations without waiting; return the ticket that their answer will carry.

        Raises MessageError for rows of another shape and when `window` requests are in flight already.
        """
        ticket = self._client.submit(self._as_rows(observations))
        self._in_flight += 1
        return ticket

    def collect(self, timeout_s: float) -> Answer | None:
        """Return the oldest answer that has come: ticket, logits, values, the model's version, failed rows.

        Waits up to `timeout_s` seconds; None when none came or nothing is in flight. Raises as `evaluate`.
        """
        return self._early.pop(min(self._early)) if self._early else self._receive(timeout_s)

    def close(self) -> None:
        """Leave the server; may be called twice."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _as_rows(self, observations: NDArray[Any]) -> NDArray[Any]:
        given, wanted = np.asarray(observations), np.dtype(self.rows.observation_dtype)
        rows = np.ascontiguousarray(given, wanted)
        if not np.can_cast(given.dtype, wanted, "same_kind") and not np.array_equal(rows, given):
            raise MessageError(f"observations of {given.dtype} hold values that are no {wanted}; send {wanted}")
        return rows

    def _receive(self, timeout_s: float) -> Answer | None:
        try:
            answer = self._client.collect(timeout_s)
        except MessageError:  # one request was refused
            self._in_flight -= 1
            raise
        self._in_flight -= answer is not None
        return answer
