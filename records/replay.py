"""A recorded game replayed by its rules: checked move by move, and made into what a network learns from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grove.common.errors import RecordError, SettingError
from grove.game.contract import Game
from grove.game.registry import BUILT_IN, load_game
from grove.records.record import GameRecord

_TOLERANCE = 1e-6


class Position(NamedTuple):
    """One position of a recorded game, before its move; A actions, P seats."""

    observation: NDArray[Any]
    """[*observation_shape] of the game's observation_dtype, from the seat to move: what the network was shown."""
    legal: NDArray[np.int32]
    """int32 [L]: the legal actions, ascending."""
    visits: NDArray[np.float32]
    """float32 [A]: the root's visits as shares, which sum to 1; 1 for the only move where nothing was searched."""
    value: NDArray[np.float32]
    """The game's result, the seat to move first and then clockwise: float32 [1] for a two-player zero-sum game,
    otherwise [P]. The shape of a network's values."""
    seat: int
    """The seat to move, 0..P-1."""
    action: int
    """The move that was played."""
    searched: bool
    """Whether a search chose it; otherwise it was forced."""


@dataclass(frozen=True, slots=True)
class RecordedGame:
    """One game as it was recorded."""

    record: GameRecord
    """What its line holds: spec, index, seed, moves, visits, values, models, utilities, status, seconds."""

    def positions(self, rules: str | Game | None = None) -> Iterator[Position]:
        """Yield the positions from the first to the one before the last move, replayed by the game's rules.

        Args:
            rules: the rules of a game that is not built in, as `package.module:Class` or loaded by `load_game`: what a
                record names is never imported unasked.

        Raises:
            SettingError: the rules must be given, or cannot be loaded.
            RecordError: the record does not fit them.
        """
        game = rules_of(self.record, rules)
        states = np.concatenate(list(replay(self.record, game)))[:-1]
        count = len(states)
        observations = np.zeros((count, *game.observation_shape), game.observation_dtype)
        offsets, legal = np.zeros(count + 1, np.int64), np.zeros(count * game.max_legal, np.int32)
        seats = np.zeros(count, np.int8)
        game.observe(states, observations)
        game.legal(states, offsets, legal)
        game.to_play(states, seats)
        values = 1 if game.zero_sum else game.num_players
        for ply, (action, visits) in enumerate(zip(self.record.moves, self.record.visits, strict=True)):
            yield Position(
                observation=observations[ply],
                legal=legal[offsets[ply] : offsets[ply + 1]],
                visits=_shares(visits or [[action, 1]], game.num_actions),
                value=np.roll(np.array(self.record.utilities, np.float32), -int(seats[ply]))[:values],
                seat=int(seats[ply]),
                action=action,
                searched=visits is not None,
            )


def rules_of(record: GameRecord, rules: str | Game | None = None) -> Game:
    """Return the rules that `record` is replayed by. Raises SettingError."""
    if not rules and record.game.partition(":")[0] not in BUILT_IN:
        why = f"game {record.index} is of {record.game}, and what a record names is not imported unasked"
        raise SettingError(f"{why}; give --rules {shlex.quote(record.game)} if you trust that module")
    return load_game(rules or record.game) if isinstance(rules, str | None) else rules


def replay(record: GameRecord, game: Game) -> Iterator[NDArray[Any]]:
    """Yield the state S [1] before every move and the last one, after checking that they follow the rules.

    Raises RecordError for another game, an illegal move, one after the end, another result, other scores.
    """
    if record.game != game.name:
        raise RecordError(f"game {record.index} is of {record.game}, but these are the rules of {game.name}")
    return _replay(record, game)


def _replay(record: GameRecord, game: Game) -> Iterator[NDArray[Any]]:
    state = np.zeros(1, game.state_dtype)
    game.initial(np.array([record.seed], np.uint64), state)
    for ply, action in enumerate(record.moves):
        _check_legal(record, game, state, ply)
        yield state.copy()
        game.step(state, np.array([action], np.int32))
    _check_result(record, game, state)
    yield state


def _shares(visits: Sequence[Sequence[int]], num_actions: int) -> NDArray[np.float32]:
    shares = np.zeros(num_actions, np.float32)
    for action, count in visits:
        shares[action] = count
    shares /= max(shares.sum(), 1)
    return shares


def _outcome(game: Game, state: NDArray[Any]) -> tuple[bool, list[float]]:
    done, utility = np.zeros(1, np.bool_), np.zeros((1, game.num_players))
    game.outcome(state, done, utility)
    return bool(done[0]), [float(value) for value in utility[0]]


def _check_legal(record: GameRecord, game: Game, state: NDArray[Any], ply: int) -> None:
    action = record.moves[ply]
    offsets, actions = np.zeros(2, np.int64), np.zeros(game.max_legal, np.int32)
    game.legal(state, offsets, actions)
    done, _ = _outcome(game, state)
    legal = set(actions[: offsets[1]].tolist())
    wrong = [move for move in (action, *(visited for visited, _ in record.visits[ply] or ())) if move not in legal]
    if done or wrong:
        why = "the game is over already" if done else f"action {wrong[0]} is not legal there"
        raise RecordError(f"game {record.index} does not follow the rules of {game.name}: move {ply + 1}, {why}")


def _check_result(record: GameRecord, game: Game, state: NDArray[Any]) -> None:
    done, utilities = _outcome(game, state)
    if done != (record.status == "finished"):
        found = "is over" if done else "is not over"
        raise RecordError(f"game {record.index} is recorded as {record.status}, but after its moves it {found}")
    if done and not _equal(utilities, record.utilities):
        raise RecordError(f"game {record.index} has the result {record.utilities}, but its replay gives {utilities}")
    for key, value in game.annotate(record.seed, record.moves).items():
        if key in record.extra and record.extra[key] != value:
            raise RecordError(f"game {record.index} has the {key} {record.extra[key]}, but its replay gives {value}")


def _equal(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and np.allclose(a, b, rtol=0, atol=_TOLERANCE)
