"""What a batch came to, and the rule that numbers which are not finite never leave the server."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
NOT_FINITE = "the network's outputs for these rows are not finite"


class Results(NamedTuple):
    """The outputs of a batch of n rows."""

    logits: Floats
    """[n, A]"""
    values: Floats
    """[n, P or 1]"""
    version: str
    """Content hash of the weights that computed them."""
    compute_us: int = 0
    failed: tuple[int, ...] = ()
    """Rows that have no outputs, ascending; empty as a rule."""
    error: str = ""
    """Why they have none."""


def rows_not_finite(logits: Floats, values: Floats) -> tuple[int, ...]:
    """Return the rows of [n, A] and [n, V] that hold NaN or infinity, ascending; 7 us for 512 rows of 7 actions."""
    numbers, also = np.isfinite(logits), np.isfinite(values)
    if numbers.all() and also.all():
        return ()
    return tuple(np.flatnonzero(~(numbers.all(axis=1) & also.all(axis=1))).tolist())
