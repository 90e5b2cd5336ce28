"""What every evaluator offers a worker, whether it is a server's client or a network of the worker's own."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from grove.common.errors import MessageError
from grove.inference_server.interface.rows import RowSpec

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[Any]
"""Observations [n, *observation_shape] of the row spec's dtype."""
Legal = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
"""Ragged legal actions: offsets int64 [n + 1] from 0, actions int32 [offsets[n]]."""
DEFAULT = "default"
"""Name of the model that is always there."""
NONE_FAILED = np.zeros(0, np.int32)


class Answer(NamedTuple):
    """The answer to one request of n rows."""

    ticket: int
    """The number `submit` returned."""
    logits: Floats
    """[n, A], or, for a request with legal actions, only theirs: [offsets[n]]; zeros in failed rows."""
    values: Floats
    """[n, P], mover first, or [n, 1] for zero-sum games; zeros in failed rows."""
    version: str
    """Content hash of the model that computed it (16 hex digits), or the name of another kind of evaluator."""
    failed: npt.NDArray[np.int32] = NONE_FAILED
    """Row numbers that could not be computed, ascending; empty as a rule."""
    batch_rows: int = 0
    """Rows of the batch that completed the request."""
    queue_us: int = 0
    """Microseconds its last row waited for a lane."""
    compute_us: int = 0
    """Microseconds that batch took on its lane."""
    error: str = ""
    """Why rows failed, empty as a rule."""


class Client(Protocol):
    """Evaluates the rows of one worker; used by one thread only."""

    def submit(self, observations: Rows, legal: Legal | None = None, model: str = DEFAULT) -> int:
        """Send rows and return the request's ticket; they are copied before it returns.

        Args:
            observations: [n, *observation_shape].
            legal: actions whose logits are wanted; all without it.
            model: name of one of the server's models.

        Raises:
            MessageError: rows of another shape or dtype, none or too many of them, no such model, or more requests
                than the window.
            ServerGone: the server has ended.
        """
        ...

    def collect(self, timeout_s: float) -> Answer | None:
        """Return the oldest answer, waiting up to `timeout_s`; None when none came or nothing is outstanding.

        Raises:
            ServerGone: the server has ended or stopped answering.
        """
        ...

    def set_window(self, requests: int) -> None:
        """Promise to keep up to `requests` requests outstanding from now on; 0 = idle."""
        ...

    def close(self) -> None:
        """Leave; outstanding requests are forgotten. May be called twice."""
        ...


def check_rows(spec: RowSpec, max_rows: int, observations: Rows, legal: Legal | None) -> None:
    """Refuse rows that do not fit `spec` before they reach a batch.

    Raises:
        MessageError: what is wrong, with the value and the limit.
    """
    if observations.shape[1:] != spec.observation_shape or observations.dtype != spec.observation_dtype:
        raise MessageError(
            f"rows are {observations.dtype}{list(observations.shape[1:])}, but {spec.game} has "
            f"{spec.observation_dtype}{list(spec.observation_shape)}; send observations of this game"
        )
    if not 0 < len(observations) <= max_rows:
        raise MessageError(f"a request has {len(observations)} rows, but it may have 1 to {max_rows}; split it")
    if legal is not None:
        check_legal(spec.num_actions, len(observations), *legal)


def check_legal(num_actions: int, rows: int, offsets: npt.NDArray[np.int64], actions: npt.NDArray[np.int32]) -> None:
    """Refuse ragged legal actions that would read outside the logits.

    Raises:
        MessageError: what is wrong.
    """
    if offsets.shape != (rows + 1,) or offsets[0] != 0 or offsets[-1] != len(actions) or np.any(np.diff(offsets) < 0):
        raise MessageError(f"legal offsets do not partition {len(actions)} actions into {rows} rows")
    if len(actions) and (actions.min() < 0 or actions.max() >= num_actions):
        raise MessageError(f"a legal action lies outside 0..{num_actions - 1}")
