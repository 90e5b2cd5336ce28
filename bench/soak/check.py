"""What a run that was harmed has on disk: every index once, played by the rules, by models that were known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grove.common.rng import derive
from grove.game import Game
from grove.records.files import Problem
from grove.records.record import JOINT, GameRecord, read_folder

_AT_ONCE = 512
_EXACT = 1e-6
_LATE_S = 5.0
"""Longest time that a game may lie between its last move and its line on disk."""

Span = tuple[float, float]
"""Monotonic seconds between which something has happened."""


@dataclass
class Served:
    """A model from when it was given to a run."""

    version: str
    """Content hash."""
    given_at: float
    """Monotonic seconds just before it was given."""
    taken_at: float | None = None
    """Monotonic seconds at which the server was first seen to serve it."""


@dataclass
class Check:
    """What was found; empty lists are good."""

    games: int = 0
    lost: list[int] = field(default_factory=list)
    """Indices of 0..N-1, or seen on disk while the run went on, that no line holds."""
    duplicates: list[int] = field(default_factory=list)
    wrong_models: list[str] = field(default_factory=list)
    """Games with a model that was not served while they were played, or with models in another order than served."""
    against_rules: list[str] = field(default_factory=list)
    """Games that do not replay, or that are not the game of their index."""
    torn: int = 0
    """Lines that kills tore; not faults, because their games were played again."""
    moves_by_model: dict[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, doubled or wrong."""
        return not (self.lost or self.duplicates or self.wrong_models or self.against_rules)


def check_games(
    games: Path, game: Game, count: int, seed: int, served: Sequence[Served], seen: Mapping[int, Span]
) -> Check:
    """Check the logs in `games`, which shall hold 0..count-1.

    `seed`: of the run. `served`: all models that it was given, in order. `seen`: indices that were on disk earlier, and
    when each came there.
    """
    check, indices, by_model = Check(), Counter[int](), Counter[str]()
    problems: list[Problem] = []
    part: list[GameRecord] = []
    for record in read_folder(games, problems):
        indices[record.index] += 1
        by_model.update("several at once" if JOINT in model else model for model in record.models if model is not None)
        span = seen.get(record.index)
        wrong = wrong_models(record.models, served_during(served, span, record.seconds) if span else [])
        if wrong:
            check.wrong_models.append(f"game {record.index}: {wrong}")
        part.append(record)
        if len(part) == _AT_ONCE:
            check.against_rules += replay(part, game, seed)
            part = []
    check.against_rules += replay(part, game, seed)
    check.games, check.torn, check.moves_by_model = len(indices), len(problems), dict(by_model)
    check.lost = sorted((set(range(count)) | set(seen)) - indices.keys())
    check.duplicates = sorted(index for index, lines in indices.items() if lines > 1)
    return check


def served_during(served: Sequence[Served], ended: Span, seconds: float) -> list[str]:
    """Return the models that may have answered a game of `seconds` whose line came within `ended`, in their order."""
    began = ended[0] - seconds - _LATE_S
    followers = [model.taken_at for model in served[1:]]
    return [
        model.version
        for model, gone_at in zip(served, [*followers, None], strict=True)
        if model.given_at <= ended[1] and (gone_at is None or gone_at >= began)
    ]


def wrong_models(of_moves: Sequence[str | None], known: Sequence[str]) -> str:
    """Return what is wrong with the models of a game's moves, or nothing; they come in the order of `known`.

    A move that was searched while a model took over names both, joined by JOINT.
    """
    named = [model for move in of_moves if move is not None for model in move.split(JOINT)]
    unknown = set(named) - set(known)
    if unknown:
        return f"model {min(unknown)} was not served then"
    place = 0
    for model in named:
        if model not in known[place:]:
            return f"model {model} came back after {known[place]}"
        place = known.index(model, place)
    return ""


def replay(records: Sequence[GameRecord], game: Game, seed: int) -> list[str]:
    """Play all `records` by the rules at once; return what does not fit, one line each."""
    wrong: dict[int, str] = {}
    seeds = np.array([record.seed for record in records], np.uint64)
    states = np.zeros(len(records), game.state_dtype)
    game.initial(seeds, states)
    for place, record in enumerate(records):
        if record.game != game.name:
            wrong[place] = f"is of {record.game}"
        elif int(derive(np.uint64(seed), record.index)) != record.seed:
            wrong[place] = "has not the seed of its index"
    for ply in range(max((len(record.moves) for record in records), default=0)):
        places = [p for p, record in enumerate(records) if p not in wrong and len(record.moves) > ply]
        _step(records, game, states, (places, ply), wrong)
    _check_ends(records, game, states, wrong)
    return [f"game {records[place].index} {why}" for place, why in sorted(wrong.items())]


def _step(
    records: Sequence[GameRecord], game: Game, states: NDArray[Any], turn: tuple[list[int], int], wrong: dict[int, str]
) -> None:
    """Play move `ply` of the games at `places` (both in `turn`)."""
    places, ply = turn
    part = np.ascontiguousarray(states[places])
    done, _ = _outcome(game, part)
    offsets = np.zeros(len(part) + 1, np.int64)
    legal = np.zeros(len(part) * game.max_legal, np.int32)
    game.legal(part, offsets, legal)
    moves = np.array([records[place].moves[ply] for place in places], np.int32)
    for row, place in enumerate(places):
        if done[row] or moves[row] not in legal[offsets[row] : offsets[row + 1]]:
            wrong[place] = f"has an illegal move {ply + 1}"
    sound = [row for row, place in enumerate(places) if place not in wrong]
    part, moves = np.ascontiguousarray(part[sound]), np.ascontiguousarray(moves[sound])
    game.step(part, moves)
    states[[places[row] for row in sound]] = part


def _check_ends(records: Sequence[GameRecord], game: Game, states: NDArray[Any], wrong: dict[int, str]) -> None:
    done, utility = _outcome(game, states)
    for place, record in enumerate(records):
        if place in wrong:
            continue
        if record.status == "finished" and not done[place]:
            wrong[place] = "stops before its end"
        elif record.status == "finished" and np.abs(utility[place] - record.utilities).max() > _EXACT:
            wrong[place] = f"has the result {record.utilities}, by the rules {utility[place].tolist()}"


def _outcome(game: Game, states: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    done = np.zeros(len(states), np.bool_)
    utility = np.zeros((len(states), game.num_players), np.float64)
    game.outcome(states, done, utility)
    return done, utility
