"""The check of a game: random games in which every promise of the Game contract is asserted."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from grove.common.errors import ContractError
from grove.game.contract import Game, Symmetry


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
    if not game.units or not all(isinstance(n, int) and n >= 1 for n in game.units.values()):
        raise _broken(game, "units count things from 1 on, the name of a game first", repr(game.units))
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
        if game.hidden_information:
            _check_worlds(game, states[going], rng, _Place(live[going], move))
        live, states = live[going], states[going]
        actions = np.array([rng.choice(view.legal[i]) for i in going], np.int32)
        if move < game.max_moves:
            states = _advance(game, states, actions, _Place(live, move))
        for index, action in zip(live, actions, strict=True):
            histories[index].append(int(action))
    found = f"{_Place(live, game.max_moves).row(0)}: it is not over"
    raise _broken(game, f"a game ends within max_moves = {game.max_moves}", found)


def _check_worlds(game: Game, states: NDArray[Any], rng: np.random.Generator, place: _Place) -> None:
    """Check that worlds look to the mover like the states they were drawn for, and can be played to an end."""
    seeds, other = rng.integers(0, 1 << 63, (2, len(states)), np.uint64)
    before = states.tobytes()
    worlds, again = _worlds(game, states, seeds, place, 0), _worlds(game, states, seeds, place, 1)
    if states.tobytes() != before:
        raise _broken(game, "only step changes states", f"{place.batch()}: determinize changed it")
    # What the mover cannot see must not matter: a world of a world is the world that the state itself gives.
    of_worlds, of_states = _worlds(game, worlds, other, place, 0), _worlds(game, states, other, place, 0)
    seen, told = _ask(game, states, place.batch(), 0), _ask(game, worlds, place.batch(), 0)
    for i in range(len(states)):
        if worlds[i].tobytes() != again[i].tobytes():
            raise _broken(game, "determinize writes every field, from the seed alone", f"{place.row(i)}: other bytes")
        _compare(game, "the mover cannot tell a world from the state", place.row(i), seen.of(i), told.of(i))
        if of_worlds[i].tobytes() != of_states[i].tobytes():
            raise _broken(game, "a world is built of what the mover sees", f"{place.row(i)}: hidden things matter")
    _play_out(game, worlds, rng, place)


def _worlds(game: Game, states: NDArray[Any], seeds: NDArray[np.uint64], place: _Place, byte: int) -> NDArray[Any]:
    out = _junk(states.shape, game.state_dtype, byte)
    _call(game, "determinize", place.batch(), states, seeds, out)
    return out


def _play_out(game: Game, worlds: NDArray[Any], rng: np.random.Generator, place: _Place) -> None:
    """Play random moves until all worlds are over."""
    games = place.games
    for move in range(place.move, game.max_moves + 1):
        place = _Place(games, move)
        view = _ask(game, worlds, place.batch(), 0)
        for i in range(len(worlds)):
            _check_answers(game, view, i, f"a world of {place.row(i)}")
        going = np.flatnonzero(~view.done)
        if not len(going):
            return
        games, worlds = games[going], worlds[going].copy()
        _call(game, "step", place.batch(), worlds, np.array([rng.choice(view.legal[i]) for i in going], np.int32))
    raise _broken(game, f"a world ends within max_moves = {game.max_moves}", f"{place.row(0)}: it is not over")


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
