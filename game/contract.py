"""The Game contract: what the search and the workers may expect of a game, and the check of it.

A game is a set of batch functions over one-dimensional arrays of states. A state is one element of a packed numpy
structured dtype, so states are copied, stored, hashed and sent as plain memory. Everything the game knows is in those
bytes: there is no hidden object behind them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Symmetry(NamedTuple):
    """One way to turn a position that leaves the rules unchanged (never the identity), as two gathers.

    The turned position has the observation ``row.ravel()[observation]`` and the policy ``policy[actions]``.
    """

    actions: NDArray[np.int32]
    """int32 [A]: which action of the original stands behind each action of the turned position."""
    observation: NDArray[np.int64]
    """int64 [row size]: which value of the original flat row each value of the turned flat row is."""


class Game(Protocol):
    """The rules of one game, for batches of B states (B may be 0); arrays are C-contiguous and never kept.

    Every method is a pure function of its arguments: no chance, no memory between calls.
    """

    name: str
    """Canonical spec, e.g. ``"hex:size=7"``: :func:`game.registry.load_game` of it gives this game again."""
    num_players: int
    """P: seats, numbered 0..P-1 clockwise."""
    num_actions: int
    """A: actions are the integers 0..A-1."""
    max_legal: int
    """Most legal actions of any one state."""
    max_moves: int
    """Most moves of any one game."""
    state_dtype: np.dtype[Any]
    """S: a packed structured dtype without padding."""
    observation_shape: tuple[int, ...]
    """One row as the network sees it, without the batch axis."""
    observation_dtype: np.dtype[Any]
    """Element type of a row; the smallest honest one."""
    zero_sum: bool
    """Two players whose utilities always sum to zero: networks may then return one value."""
    symmetries: tuple[Symmetry, ...] | None
    """Ways to turn a position, for augmentation; None where there are none."""
    compiled: bool
    """True where the methods are kernels that release the GIL; False for plain Python."""

    def initial(self, seeds: NDArray[np.uint64], out: NDArray[Any]) -> None:
        """Write the start states of `seeds` (uint64 [B]) to `out` (S [B]); a function of the seed alone."""

    def step(self, states: NDArray[Any], actions: NDArray[np.int32]) -> None:
        """Play one legal action (int32 [B]) in each of `states` (S [B], not done), in place."""

    def legal(self, states: NDArray[Any], offsets: NDArray[np.int64], actions: NDArray[np.int32]) -> None:
        """List legal actions, ascending within a state; a state that is done may list any, up to max_legal, or none.

        Row b is ``actions[offsets[b]:offsets[b + 1]]``, and ``offsets[0]`` is 0. `offsets` is int64 [B + 1],
        `actions` int32 with room for B * max_legal numbers.
        """

    def to_play(self, states: NDArray[Any], out: NDArray[np.int8]) -> None:
        """Write the seat to move of each state to `out` (int8 [B]); any seat where the game is done."""

    def outcome(self, states: NDArray[Any], done: NDArray[np.bool_], utility: NDArray[np.float64]) -> None:
        """Write whether each game is over (bool [B]) and the utility of each seat in [-1, 1] (float64 [B, P]).

        The utilities of a game that is not over mean nothing.
        """

    def observe(self, states: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the rows ([B, *observation_shape]) as the seat to move sees them, seats rotated to the mover.

        All values are written. Equal rows must mean equal legal actions and the same future seen from the mover's
        seat, because evaluations are cached by the row. The row of a game that is over means nothing.
        """

    def parse(self, text: str) -> int:
        """Return the action that `text` names, the inverse of :meth:`render_action`.

        Raises:
            SettingError: `text` names no action.
        """

    def render_action(self, action: int) -> str:
        """Return the text of an action, e.g. ``"c4"``."""

    def render(self, state: NDArray[Any]) -> str:
        """Return a picture of one state (S, shape () or (1,)) for people, several lines, no trailing newline."""
