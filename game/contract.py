"""The Game contract: what the search and the workers may expect of a game, and the check of it.

A game is a set of batch functions over one-dimensional arrays of states. A state is one element of a packed numpy
structured dtype, so states are copied, stored, hashed and sent as plain memory. Everything the game knows is in those
bytes: there is no hidden object behind them.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from common.errors import ContractError


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

        All values are written. Equal rows must mean equal legal actions, because evaluations are cached by the row.
        The row of a game that is over means nothing.
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


def check(game: Game, games: int = 50, seed: int = 0) -> None:
    """Play `games` random games side by side and assert every promise of the contract.

    The moves are a function of `seed`. A game that passes once may still fail with another seed.

    Raises:
        ContractError: a promise is broken; the text names the promise, the game and the move.
    """
    _check_numbers(game)
    _check_types(game)
    _check_symmetries(game)
    _check_texts(game)
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 1 << 63, games, np.uint64)
    _check_initial(game, seeds)
    nothing = _start(game, seeds[:0])
    _advance(game, nothing, np.empty(0, np.int32), _Place(np.empty(0, np.int64), 0))
    histories = _play(game, seeds, rng)
    for symmetry in game.symmetries or ():
        _check_symmetry_in_play(game, symmetry, seeds, histories)


def _broken(game: Game, promise: str, found: str) -> ContractError:
    return ContractError(f"{game.name} breaks the Game contract: {promise}; found {found}")


def _check_numbers(game: Game) -> None:
    for name in ("num_players", "num_actions", "max_legal", "max_moves"):
        number = getattr(game, name)
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise _broken(game, f"{name} is an integer of at least 1", repr(number))
    if game.max_legal > game.num_actions:
        raise _broken(game, f"max_legal is at most num_actions = {game.num_actions}", str(game.max_legal))
    if game.num_players > 127:
        raise _broken(game, "num_players is at most 127", str(game.num_players))
    if game.zero_sum and game.num_players != 2:
        raise _broken(game, "zero_sum is for two players", f"num_players = {game.num_players}")


def _check_types(game: Game) -> None:
    if not isinstance(game.state_dtype, np.dtype) or game.state_dtype.names is None or game.state_dtype.hasobject:
        raise _broken(game, "state_dtype is a structured dtype of plain numbers", repr(game.state_dtype))
    if _packed_size(game.state_dtype) != game.state_dtype.itemsize:
        raise _broken(game, "state_dtype is packed without padding", f"{game.state_dtype} (leave out align=True)")
    if not isinstance(game.observation_dtype, np.dtype) or game.observation_dtype.kind not in "biuf":
        raise _broken(game, "observation_dtype is a number dtype", repr(game.observation_dtype))
    shape = game.observation_shape
    if not isinstance(shape, tuple) or not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise _broken(game, "observation_shape is a tuple of positive integers", repr(shape))


def _packed_size(dtype: np.dtype[Any]) -> int:
    """Return the bytes that the values of `dtype` need when nothing lies between them."""
    if dtype.subdtype is not None:
        return _packed_size(dtype.subdtype[0]) * math.prod(dtype.subdtype[1])
    if dtype.fields is None:
        return dtype.itemsize
    return sum(_packed_size(field[0]) for field in dtype.fields.values())


def _check_symmetries(game: Game) -> None:
    cells = math.prod(game.observation_shape)
    for actions, observation in game.symmetries or ():
        if not np.array_equal(np.sort(actions), np.arange(game.num_actions)):
            raise _broken(game, "the actions of a symmetry are a permutation of 0..A-1", repr(actions))
        if not np.array_equal(np.sort(observation), np.arange(cells)):
            raise _broken(game, "the observation of a symmetry is a permutation of the row", repr(observation))


def _check_texts(game: Game) -> None:
    for action in range(game.num_actions):
        text = game.render_action(action)
        if game.parse(text) != action:
            raise _broken(game, "parse(render_action(a)) is a", f"parse({text!r}) is not {action}")


def _junk(shape: tuple[int, ...], dtype: DTypeLike, byte: int) -> NDArray[Any]:
    """Return an array whose memory holds `byte` everywhere: what is not written shows."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.full(size, byte, np.uint8).view(dtype).reshape(shape)


def _call(game: Game, method: str, where: str, *arrays: NDArray[Any]) -> None:
    try:
        getattr(game, method)(*arrays)
    except ContractError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _broken(game, f"{method} accepts every batch of states", f"{where}: it raised {reason}") from error


def _start(game: Game, seeds: NDArray[np.uint64], byte: int = 0) -> NDArray[Any]:
    states = _junk(seeds.shape, game.state_dtype, byte)
    _call(game, "initial", "the start", seeds, states)
    return states


def _check_initial(game: Game, seeds: NDArray[np.uint64]) -> None:
    states = _start(game, seeds)
    again = _start(game, seeds, byte=1)
    single = [_start(game, seeds[i : i + 1]) for i in reversed(range(len(seeds)))]
    for i, alone in enumerate(reversed(single)):
        if not states[i].tobytes() == again[i].tobytes() == alone.tobytes():
            found = f"game {i}, move 0: seed {seeds[i]} gave different bytes at two calls"
            raise _broken(game, "initial writes every field, from the seed alone", found)


class _Place(NamedTuple):
    """Where in the random games a batch of states is, for messages."""

    games: NDArray[np.int64]
    move: int

    def row(self, i: int) -> str:
        return f"game {self.games[i]}, move {self.move}"

    def batch(self) -> str:
        return f"a batch of {len(self.games)} games, move {self.move}"


class _View(NamedTuple):
    """All answers of a game about a batch of states."""

    done: NDArray[np.bool_]
    utility: NDArray[np.float64]
    mover: NDArray[np.int8]
    legal: list[NDArray[np.int32]]
    rows: NDArray[Any]

    def of(self, i: int) -> dict[str, object]:
        """Return the answers about state `i` that mean something, by the method that gives them."""
        if self.done[i]:
            return {"outcome": self.utility[i].tolist()}
        legal, row = self.legal[i].tobytes(), self.rows[i].tobytes()
        return {"outcome": None, "to_play": int(self.mover[i]), "legal": legal, "observe": row}


def _ask(game: Game, states: NDArray[Any], where: str, byte: int) -> _View:
    """Call every asking method with output arrays full of `byte`."""
    size = len(states)
    done = _junk((size,), np.bool_, byte)
    utility = _junk((size, game.num_players), np.float64, byte)
    mover = _junk((size,), np.int8, byte)
    offsets = _junk((size + 1,), np.int64, byte)
    # Room for all actions: a kernel that lists more than max_legal is told so and overwrites nothing.
    actions = _junk((size * game.num_actions,), np.int32, byte)
    rows = _junk((size, *game.observation_shape), game.observation_dtype, byte)
    _call(game, "outcome", where, states, done, utility)
    _call(game, "to_play", where, states, mover)
    _call(game, "legal", where, states, offsets, actions)
    _call(game, "observe", where, states, rows)
    counts = np.diff(offsets)
    if offsets[0] != 0 or (counts < 0).any() or (counts > game.max_legal).any():
        promise = f"legal offsets begin with 0 and grow by at most max_legal = {game.max_legal}"
        raise _broken(game, promise, f"{where}: {offsets.tolist()}")
    return _View(done, utility, mover, np.split(actions[: offsets[-1]], offsets[1:-1]), rows)


def _compare(game: Game, promise: str, where: str, one: dict[str, object], two: dict[str, object]) -> None:
    differ = [method for method in {**one, **two} if one.get(method) != two.get(method)]
    if differ:
        raise _broken(game, promise, f"{where}: {' and '.join(differ)} differ")


def _look(game: Game, states: NDArray[Any], place: _Place) -> _View:
    """Return the game's answers about `states`, asked twice and once more one at a time."""
    before = states.tobytes()
    view, again = _ask(game, states, place.batch(), 0), _ask(game, states, place.batch(), 1)
    if states.tobytes() != before:
        raise _broken(game, "only step changes states", f"{place.batch()}: looking at a state changed it")
    for i in range(len(states)):
        promise = "answers are functions of the state's bytes alone, and every value is written"
        _compare(game, promise, place.row(i), view.of(i), again.of(i))
        alone = _ask(game, states[i : i + 1].copy(), place.row(i), 0)
        _compare(game, "a batch answers like its states one at a time", place.row(i), view.of(i), alone.of(0))
    return view


def _check_answers(game: Game, view: _View, i: int, where: str) -> None:
    """Check the ranges of the answers about state `i`."""
    if view.done[i]:
        utility = view.utility[i]
        if not (np.abs(utility) <= 1).all():
            raise _broken(game, "utilities lie in [-1, 1]", f"{where}: {utility.tolist()}")
        if game.zero_sum and utility.sum() != 0:
            raise _broken(game, "utilities of a zero_sum game sum to zero", f"{where}: {utility.tolist()}")
        return
    if not 0 <= view.mover[i] < game.num_players:
        raise _broken(game, f"to_play is a seat in 0..{game.num_players - 1}", f"{where}: {view.mover[i]}")
    legal = view.legal[i]
    if not len(legal):
        raise _broken(game, "a game that is not over has a legal action", f"{where}: none")
    if legal.min() < 0 or legal.max() >= game.num_actions or (np.diff(legal) <= 0).any():
        raise _broken(game, f"legal actions ascend within 0..{game.num_actions - 1}", f"{where}: {legal.tolist()}")
    if not np.isfinite(view.rows[i]).all():
        raise _broken(game, "observations are finite", f"{where}: {view.rows[i].ravel().tolist()}")


class _Table:
    """The legal actions that belong to each observation seen so far."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self.seen: dict[bytes, tuple[bytes, str]] = {}

    def check(self, view: _View, i: int, where: str) -> None:
        """Note state `i`; an equal row must have had equal legal actions."""
        row, legal = blake2b(view.rows[i].tobytes(), digest_size=16).digest(), view.legal[i].tobytes()
        known, place = self.seen.setdefault(row, (legal, where))
        if known != legal:
            promise = "equal observations mean equal legal actions"
            raise _broken(self.game, promise, f"{where}: the row of {place}, but other legal actions")


def _stepped(game: Game, states: NDArray[Any], actions: NDArray[np.int32], where: str) -> NDArray[Any]:
    """Return the states after `actions`, stepped between two states that must stay as they are."""
    size = len(states)
    guard = np.zeros(1, game.state_dtype) if size == 0 else states[:1]
    padded = np.concatenate([guard, states, guard])
    given = actions.copy()
    _call(game, "step", where, padded[1 : size + 1], given)
    if padded[0].tobytes() != guard.tobytes() or padded[-1].tobytes() != guard.tobytes():
        raise _broken(game, "step changes only the states it is given", f"{where}: a state beside the batch changed")
    if not np.array_equal(given, actions):
        raise _broken(game, "step leaves the actions as they are", f"{where}: {given.tolist()}")
    return padded[1 : size + 1].copy()


def _check_no_chance(game: Game, states: NDArray[Any], actions: NDArray[np.int32], place: _Place) -> NDArray[Any]:
    """Return the next states; stepping twice must give the same bytes and the same answers about them."""
    one = _stepped(game, states, actions, place.batch())
    seen = _ask(game, one.copy(), place.batch(), 0)
    two = _stepped(game, states, actions, place.batch())
    again = _ask(game, two.copy(), place.batch(), 0)
    promise = "the same state and action always give the same next state (chance nodes are not supported)"
    for i in range(len(states)):
        where = f"{place.row(i)}, action {actions[i]}"
        if one[i].tobytes() != two[i].tobytes():
            raise _broken(game, promise, f"{where}: other bytes at the second time")
        _compare(game, promise, where, seen.of(i), again.of(i))
    return one


def _advance(game: Game, states: NDArray[Any], actions: NDArray[np.int32], place: _Place) -> NDArray[Any]:
    """Return the next states, after stepping twice as a batch and once one at a time."""
    after = _check_no_chance(game, states, actions, place)
    for i in range(len(states)):
        where = f"{place.row(i)}, action {actions[i]}"
        alone = _stepped(game, states[i : i + 1], actions[i : i + 1], where)
        if after[i].tobytes() != alone.tobytes():
            raise _broken(game, "step of a batch equals stepping one at a time", f"{where}: other bytes alone")
    return after


def _play(game: Game, seeds: NDArray[np.uint64], rng: np.random.Generator) -> list[list[int]]:
    """Play all games to their end, checking every position; return the actions of each game."""
    histories: list[list[int]] = [[] for _ in seeds]
    live = np.arange(len(seeds))
    states, table = _start(game, seeds), _Table(game)
    for move in range(game.max_moves + 1):
        place = _Place(live, move)
        view = _look(game, states, place)
        _check_picture(game, states[:1], place.row(0))
        for i in range(len(live)):
            _check_answers(game, view, i, place.row(i))
            if not view.done[i]:
                table.check(view, i, place.row(i))
        going = np.flatnonzero(~view.done)
        if not len(going):
            return histories
        live, states = live[going], states[going]
        actions = np.array([rng.choice(view.legal[i]) for i in going], np.int32)
        if move < game.max_moves:
            states = _advance(game, states, actions, _Place(live, move))
        for index, action in zip(live, actions, strict=True):
            histories[index].append(int(action))
    found = f"{_Place(live, game.max_moves).row(0)}: it is not over"
    raise _broken(game, f"a game ends within max_moves = {game.max_moves}", found)


def _check_picture(game: Game, state: NDArray[Any], where: str) -> None:
    if not game.render(state) or game.render(state) != game.render(state[0]):
        raise _broken(game, "render draws a state of shape () and (1,) alike", f"{where}: {game.render(state)!r}")


def _check_symmetry_in_play(
    game: Game, symmetry: Symmetry, seeds: NDArray[np.uint64], histories: list[list[int]]
) -> None:
    """Play the games again, turned; start positions that the symmetry changes are left out."""
    turned_action = np.argsort(symmetry.actions)
    for index, history in enumerate(histories):
        plain = _start(game, seeds[index : index + 1])
        turned = plain.copy()
        for move, action in enumerate([*history, -1]):
            where = f"game {index}, move {move}"
            view, image = _ask(game, plain, where, 0), _ask(game, turned, where, 0)
            row = view.rows.reshape(-1)[symmetry.observation]
            if move == 0 and not np.array_equal(row, view.rows.reshape(-1)):
                break
            legal = np.sort(turned_action[view.legal[0]]).astype(np.int32)
            expected = _View(view.done, view.utility, view.mover, [legal], row[np.newaxis])
            _compare(game, "a symmetry leaves the rules unchanged", where, expected.of(0), image.of(0))
            if action >= 0:
                plain = _stepped(game, plain, np.array([action], np.int32), where)
                turned = _stepped(game, turned, turned_action[[action]].astype(np.int32), where)
