"""A plain Python game as a batch :class:`grove.game.contract.Game`: slow, correct, and nothing to compile.

A state is the seed, the number of moves and the moves themselves, so states stay plain memory. The objects behind
them are kept in a bounded cache; one that was dropped is built again by replaying its moves.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from grove.common.errors import ContractError, SettingError
from grove.game.contract import PerfectInformation, Symmetry

CACHED_OBJECTS = 4096
"""Live objects kept per game: enough for the positions that a few hundred trees are working on."""


class PythonGame(Protocol):
    """What a plain Python game provides: class attributes for the sizes, and one object per game being played.

    Optional class attributes are ``max_legal`` (default: num_actions), ``zero_sum`` (default: False) and
    ``symmetries`` (default: None); optional methods are ``render() -> str`` and the static or class methods
    ``render_action(action) -> str`` with its inverse ``parse(text) -> int``. Copies are made by ``copy.deepcopy``; a
    ``__deepcopy__`` of its own makes a game faster. All chance must be drawn from `seed` in ``__init__``.
    """

    num_players: int
    num_actions: int
    max_moves: int
    observation_shape: tuple[int, ...]
    observation_dtype: DTypeLike

    def __init__(self, seed: int) -> None:
        """Set up a new game; the same seed always gives the same start."""

    def legal_actions(self) -> Iterable[int]:
        """Return the legal actions in any order; not asked when the game is over."""

    def step(self, action: int) -> None:
        """Play a legal action."""

    def to_play(self) -> int:
        """Return the seat to move, 0..num_players-1; not asked when the game is over."""

    def utility(self) -> Sequence[float] | None:
        """Return None while the game goes on, then one number in [-1, 1] per seat."""

    def observe(self) -> Any:
        """Return the row as the seat to move sees it; not asked when the game is over."""


_REQUIRED = [
    *("num_players", "num_actions", "max_moves", "observation_shape", "observation_dtype"),
    *("legal_actions", "step", "to_play", "utility", "observe"),
]


class AdaptedGame(PerfectInformation):
    """A :class:`PythonGame` class behind the Game contract; safe to share between threads."""

    compiled = False

    def __init__(self, cls: type[PythonGame], name: str, cached_objects: int = CACHED_OBJECTS) -> None:
        """Wrap `cls` under the spec `name`, keeping at most `cached_objects` live objects.

        Raises:
            ContractError: `cls` lacks a required name.
        """
        missing = [wanted for wanted in _REQUIRED if not hasattr(cls, wanted)]
        if missing:
            raise ContractError(f"{name} is not a complete Python game; add {', '.join(missing)}")
        self._cls = cls
        self._capacity = cached_objects
        self._objects: OrderedDict[bytes, PythonGame] = OrderedDict()
        self._lock = threading.Lock()
        self.name = name
        self.num_players, self.num_actions, self.max_moves = cls.num_players, cls.num_actions, cls.max_moves
        self.max_legal: int = getattr(cls, "max_legal", cls.num_actions)
        self.zero_sum: bool = getattr(cls, "zero_sum", False)
        self.symmetries: tuple[Symmetry, ...] | None = getattr(cls, "symmetries", None)
        self.observation_shape = tuple(cls.observation_shape)
        self.observation_dtype = np.dtype(cls.observation_dtype)
        action_dtype = np.min_scalar_type(max(cls.num_actions - 1, 0))
        self.state_dtype = np.dtype(
            [("seed", np.uint64), ("ply", np.int32), ("history", action_dtype, (cls.max_moves,))]
        )

    def initial(self, seeds: NDArray[np.uint64], out: NDArray[Any]) -> None:
        """See the contract; every object is built anew, so a start that is no function of its seed shows up."""
        out[...] = np.zeros((), self.state_dtype)
        out["seed"] = seeds
        for i in range(len(out)):
            self._keep(out[i].tobytes(), self._cls(int(seeds[i])))

    def step(self, states: NDArray[Any], actions: NDArray[np.int32]) -> None:
        """See the contract.

        Raises:
            ContractError: a game goes on beyond max_moves.
        """
        for i in range(len(states)):
            ply = int(states[i]["ply"])
            if ply >= self.max_moves:
                raise ContractError(f"{self.name} goes on after max_moves = {self.max_moves} moves; raise max_moves")
            after = copy.deepcopy(self._object(states[i]))
            after.step(int(actions[i]))
            states[i]["history"][ply] = actions[i]
            states[i]["ply"] = ply + 1
            self._keep(states[i].tobytes(), after)

    def legal(self, states: NDArray[Any], offsets: NDArray[np.int64], actions: NDArray[np.int32]) -> None:
        """See the contract; a game that is over has none.

        Raises:
            ContractError: a state has more than max_legal actions.
        """
        offsets[0] = n = 0
        for i in range(len(states)):
            game = self._object(states[i])
            legal = sorted(game.legal_actions()) if game.utility() is None else []
            if len(legal) > self.max_legal:
                raise ContractError(
                    f"{self.name} has {len(legal)} legal actions, more than max_legal = {self.max_legal}"
                )
            actions[n : n + len(legal)] = legal
            n += len(legal)
            offsets[i + 1] = n

    def to_play(self, states: NDArray[Any], out: NDArray[np.int8]) -> None:
        """See the contract; seat 0 where the game is over."""
        for i in range(len(states)):
            game = self._object(states[i])
            out[i] = game.to_play() if game.utility() is None else 0

    def outcome(self, states: NDArray[Any], done: NDArray[np.bool_], utility: NDArray[np.float64]) -> None:
        """See the contract; zeros where the game goes on.

        Raises:
            ContractError: not one utility per seat.
        """
        for i in range(len(states)):
            result = self._object(states[i]).utility()
            if result is not None and len(result) != self.num_players:
                raise ContractError(f"{self.name} has {self.num_players} seats but gave the utilities {result}")
            done[i] = result is not None
            utility[i] = 0.0 if result is None else result

    def observe(self, states: NDArray[Any], out: NDArray[Any]) -> None:
        """See the contract; zeros where the game is over.

        Raises:
            ContractError: a row of another shape, or values that an integer observation_dtype cannot hold.
        """
        for i in range(len(states)):
            game = self._object(states[i])
            row = np.asarray(game.observe()) if game.utility() is None else np.zeros(self.observation_shape)
            if row.shape != self.observation_shape:
                raise ContractError(f"{self.name} declares rows of shape {self.observation_shape}, gave {row.shape}")
            out[i] = row.astype(self.observation_dtype)
            if self.observation_dtype.kind in "biu" and not np.array_equal(out[i], row):
                raise ContractError(f"{self.name} gave values that are no {self.observation_dtype}: {row.ravel()}")

    def parse(self, text: str) -> int:
        """Return the action that `text` names: the class's own ``parse``, or the number."""
        own = getattr(self._cls, "parse", None)
        try:
            return int(own(text) if own else text)
        except ValueError as error:
            limit = f"it must be a move such as {self.render_action(0)}"
            raise SettingError.of("move", text, limit, "write it like that") from error

    def render_action(self, action: int) -> str:
        """Return the class's own text of an action, or its number."""
        own = getattr(self._cls, "render_action", None)
        return str(own(int(action))) if own else str(int(action))

    def render(self, state: NDArray[Any]) -> str:
        """Return the class's own picture, or the moves played so far."""
        fields = state.reshape(-1)[0]
        own = getattr(self._object(fields), "render", None)
        if own:
            return str(own())
        moves = " ".join(self.render_action(a) for a in fields["history"][: fields["ply"]])
        return f"seed {fields['seed']}, moves: {moves or 'none'}"

    def _keep(self, key: bytes, game: PythonGame) -> None:
        with self._lock:
            self._objects[key] = game
            self._objects.move_to_end(key)
            if len(self._objects) > self._capacity:
                self._objects.popitem(last=False)

    def _object(self, state: np.void) -> PythonGame:
        """Return the live object of `state`, which nobody may change; replay the moves if it was dropped."""
        key = state.tobytes()
        with self._lock:
            game = self._objects.get(key)
            if game is not None:
                self._objects.move_to_end(key)
                return game
        game = self._cls(int(state["seed"]))
        for action in state["history"][: state["ply"]]:
            game.step(int(action))
        self._keep(key, game)
        return game
