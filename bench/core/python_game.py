"""Any compiled game as a plain Python one: the same rules, played object by object under the interpreter's lock.

For the mode `python-threads` of bench/core/modes.py. A game object holds one state and calls the compiled game's batch
functions with batches of one; `grove.game.adapter` does the rest, as for any game that a user writes in Python. A
process finds the class by its name, ``grove.bench.core.python_game:NAME``, where NAME is the spec with `_xx` for all
that is no letter or digit.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from grove.common.errors import GroveError
from grove.game import Game, load_game


def python_spec(spec: str) -> str:
    """Return the spec of the Python game that plays like the compiled game `spec`."""
    return f"{__name__}:" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", spec)


class PlainGame:
    """One game in progress; a subclass names the game whose rules it plays by."""

    game: ClassVar[Game]

    def __init__(self, seed: int) -> None:
        self._state: npt.NDArray[Any] = np.zeros(1, self.game.state_dtype)
        self.game.initial(np.array([seed], np.uint64), self._state)

    def __deepcopy__(self, memo: dict[int, Any]) -> PlainGame:
        other = object.__new__(type(self))
        other._state = self._state.copy()
        return other

    def legal_actions(self) -> list[int]:
        """Return the legal actions, ascending."""
        offsets, actions = np.zeros(2, np.int64), np.zeros(self.game.max_legal, np.int32)
        self.game.legal(self._state, offsets, actions)
        legal: list[int] = actions[: offsets[1]].tolist()
        return legal

    def step(self, action: int) -> None:
        """Play a legal action."""
        self.game.step(self._state, np.array([action], np.int32))

    def to_play(self) -> int:
        """Return the seat to move."""
        seat = np.zeros(1, np.int8)
        self.game.to_play(self._state, seat)
        return int(seat[0])

    def utility(self) -> list[float] | None:
        """Return None while the game goes on, then one number per seat."""
        done, utility = np.zeros(1, np.bool_), np.zeros((1, self.game.num_players))
        self.game.outcome(self._state, done, utility)
        seats: list[float] = utility[0].tolist()
        return seats if done[0] else None

    def observe(self) -> npt.NDArray[Any]:
        """Return the row as the seat to move sees it."""
        row = np.zeros((1, *self.game.observation_shape), self.game.observation_dtype)
        self.game.observe(self._state, row)
        observed: npt.NDArray[Any] = row[0]
        return observed


_SHARED = (
    *("num_players", "num_actions", "max_legal", "max_moves", "zero_sum"),
    *("observation_shape", "observation_dtype"),
)


def __getattr__(name: str) -> type[PlainGame]:
    """Make the class that `python_spec` names; the registry looks it up like any class of a module."""
    spec = re.sub("_([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), name)
    try:
        game = load_game(spec)
    except GroveError:
        raise AttributeError(name) from None
    return type(name, (PlainGame,), {"game": game} | {member: getattr(game, member) for member in _SHARED})
