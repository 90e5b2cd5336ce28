"""What both channels offer a worker: submit rows, collect replies."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from grove.common.errors import MessageError
from grove.inference_server.interface.rows import RowSpec

Rows = npt.NDArray[Any]
"""Observations [n, *observation_shape] of the row spec's dtype."""
Legal = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
"""Ragged legal actions: offsets int64 [n + 1] from 0, actions int32 [offsets[n]]."""


class Reply(NamedTuple):
    """The answer to one request of n rows."""

    request: int
    """The number `submit` returned."""
    logits: npt.NDArray[np.float32]
    """[n, A], or, for a request with legal actions, only theirs: [offsets[n]]; zeros in failed rows."""
    values: npt.NDArray[np.float32]
    """[n, P], mover first, or [n, 1] for zero-sum games; zeros in failed rows."""
    version: str
    """Content hash of the model that computed it (16 hex digits)."""
    failed: npt.NDArray[np.int32]
    """Row numbers that could not be computed, ascending; empty as a rule."""
    batch_rows: int
    """Rows of the batch that completed the request."""
    queue_us: int
    """Microseconds its last row waited for a lane."""
    compute_us: int
    """Microseconds that batch took on its lane."""
    error: str = ""
    """Why rows failed, empty as a rule."""
    slot: int = 0
    """Slot number that games begun from now on shall use, see `slots.py`; the same for good with swaps at once."""


class Client(Protocol):
    """One worker's connection to the inference server; used by one thread only."""

    @property
    def slots(self) -> dict[str, int]:
        """Model slots by name, with the number that games begun now shall use; see `slots.py`."""
        ...

    def submit(self, observations: Rows, slot: int = 0, legal: Legal | None = None) -> int:
        """Send rows for model slot `slot` and return the request's number; the rows are copied before it returns.

        Raises:
            MessageError: rows of another shape or dtype, none or too many of them, or more requests than the window.
            ServerGone: the server has ended.
        """
        ...

    def collect(self, timeout_s: float) -> Reply | None:
        """Return the oldest reply, waiting up to `timeout_s`; None when none came or nothing is outstanding.

        Raises:
            ServerGone: the server has ended or stopped answering.
        """
        ...

    def set_window(self, requests: int) -> None:
        """Promise to keep up to `requests` requests outstanding from now on; 0 = idle."""
        ...

    def release(self, slot: int) -> None:
        """Say that no more rows come for the slot number `slot`, which a reply announced before a newer one."""
        ...

    def close(self) -> None:
        """Leave the server; outstanding requests are forgotten. May be called twice."""
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
