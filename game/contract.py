"""The Game contract: what the search and the workers may expect of a game. `game/check.py` asserts it.

A game is a set of batch functions over one-dimensional arrays of states. A state is one element of a packed numpy
structured dtype, so states are copied, stored, hashed and sent as plain memory. Everything the game knows is in those
bytes: there is no hidden object behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, Protocol

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
    """Canonical spec, e.g. ``"hex:size=7"``: :func:`grove.game.registry.load_game` of it gives this game again."""
    num_players: int
    """P: seats, numbered 0..P-1 clockwise; a game for one player has one."""
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
    hidden_information: bool
    """The mover does not see all of the state: a decision searches worlds drawn by :meth:`determinize`."""
    units: Mapping[str, int]
    """What a finished game counts as, the name of a game first: ``{"games": 1}``, ``{"matches": 1, "rounds": 18}``."""

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

        All values are written. Equal rows must mean equal legal actions, because evaluations are cached by the row.
        The row of a game that is over means nothing.
        """

    def determinize(self, states: NDArray[Any], seeds: NDArray[np.uint64], out: NDArray[Any]) -> None:
        """Write a world for each of `states` (S [B], not done) to `out` (S [B]), drawn by its seed (uint64 [B]).

        Uniform over the states that the mover cannot tell apart: it is built of what the mover sees, nothing else. A
        world may end sooner than the game, where what follows depends on chance yet to come; its utilities are those
        of its own end. Never called without hidden information.
        """

    def age(self, states: NDArray[Any], out: NDArray[np.int32]) -> None:
        """Write the moves played since the game, or the round it is in, began (int32 [B]), for temperatures.

        Never called where one finished game counts as one thing alone (`units`).
        """

    def annotate(self, seed: int, moves: list[int]) -> dict[str, Any]:
        """Return further keys for the record of the game that `seed` started and `moves` played, as plain values."""

    def parse(self, text: str) -> int:
        """Return the action that `text` names, the inverse of :meth:`render_action`.

        Raises:
            SettingError: `text` names no action.
        """

    def render_action(self, action: int) -> str:
        """Return the text of an action, e.g. ``"c4"``."""

    def render_move(self, state: NDArray[Any], action: int) -> str:
        """Return the text of an action in `state` (S, shape () or (1,)), where it may mean more than by itself."""

    def render(self, state: NDArray[Any]) -> str:
        """Return a picture of one state (S, shape () or (1,)) for people, several lines, no trailing newline."""


class PerfectInformation:
    """What games without hidden information and rounds share; the registry adds it to a user's class."""

    hidden_information = False
    units: Mapping[str, int] = {"games": 1}
    symmetries: tuple[Symmetry, ...] | None = None

    @staticmethod
    def determinize(states: NDArray[Any], seeds: NDArray[np.uint64], out: NDArray[Any]) -> NoReturn:
        """Raise: nothing is hidden."""
        raise NotImplementedError("a game without hidden information has no worlds")

    @staticmethod
    def age(states: NDArray[Any], out: NDArray[np.int32]) -> NoReturn:
        """Raise: a game is not made of rounds."""
        raise NotImplementedError("a game without rounds counts its own moves")

    def annotate(self, seed: int, moves: list[int]) -> dict[str, Any]:
        """Return nothing: the moves say it all."""
        return {}

    def render_action(self, action: int) -> str:
        """Return the action's number; most games have a better text."""
        return str(action)

    def render_move(self, state: NDArray[Any], action: int) -> str:
        """Return the same text wherever the action is played."""
        return self.render_action(action)
