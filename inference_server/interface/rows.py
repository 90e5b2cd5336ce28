"""What one row of a game looks like to the network: the agreement between clients, server and model files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class RowSpec:
    """The shape of one observation row and of the answer to it.

    Two sides that compare equal may exchange rows. It travels as a plain dictionary in HELLO and in model files.
    """

    game: str
    """Canonical game spec, e.g. ``"hex:size=7"``."""
    observation_shape: tuple[int, ...]
    """Shape of one row without the batch axis, e.g. ``(2, 6, 7)``."""
    observation_dtype: str
    """Numpy dtype name of the delivered rows, e.g. ``"uint8"``."""
    num_actions: int
    """A: logits per row."""
    num_players: int
    """P: seats of the game."""
    zero_sum: bool
    """Two-player zero-sum: one value per row instead of one per seat."""

    @property
    def value_size(self) -> int:
        """Values per row: 1 for zero-sum games, otherwise one per seat (mover first)."""
        return 1 if self.zero_sum else self.num_players

    @property
    def row_bytes(self) -> int:
        """Bytes of one observation row."""
        return math.prod(self.observation_shape) * np.dtype(self.observation_dtype).itemsize

    def to_dict(self) -> dict[str, Any]:
        """As plain values (str, int, bool, list) for msgpack and JSON."""
        return {**asdict(self), "observation_shape": list(self.observation_shape)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RowSpec:
        """The inverse of :meth:`to_dict`; types are checked because the dictionary may come from the network.

        Raises:
            ValueError: a field is missing, unknown, of the wrong type or out of range.
        """
        if set(fields) != set(cls.__dataclass_fields__):
            raise ValueError(f"row spec has the fields {sorted(map(str, fields))}")
        shape = fields["observation_shape"]
        if not isinstance(shape, list | tuple):
            raise ValueError(f"observation_shape is not a list: {shape!r}")
        _check_positive_ints([*shape, fields["num_actions"], fields["num_players"]])
        _check_types(fields)
        return cls(**{**fields, "observation_shape": tuple(shape)})


def _check_positive_ints(numbers: list[Any]) -> None:
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= 1 << 24:
            raise ValueError(f"row spec holds {number!r} where a positive integer belongs")


def _check_types(fields: Mapping[str, Any]) -> None:
    if not isinstance(fields["game"], str) or not isinstance(fields["observation_dtype"], str):
        raise ValueError("game and observation_dtype must be text")
    if not isinstance(fields["zero_sum"], bool):
        raise ValueError("zero_sum must be true or false")
    try:
        kind = np.dtype(fields["observation_dtype"]).kind
    except TypeError as error:
        raise ValueError(f"unknown observation_dtype {fields['observation_dtype']!r}") from error
    if kind not in "biuf":
        raise ValueError(f"observation_dtype {fields['observation_dtype']!r} is not a number type")
