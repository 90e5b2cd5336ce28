"""Games that begin in the middle, so that a measurement finds a pool as it is after hours of play.

Games of one length that start together end together: a measurement shorter than a game would count none of them, or
all. With random moves up to a random decision each, about as many end at any time as in the long run. Forced moves take
no time and count for nothing in that draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from grove.common.rng import below
from grove.game.contract import Game
from grove.workers.selfplay.row_kernels import draw_moves

Ints = npt.NDArray[np.int64]


def play_ahead(game: Game, states: npt.NDArray[Any], keys: npt.NDArray[np.uint64], most: int) -> list[list[int]]:
    """Play random moves in `states` (S [B], in place) and return them, per game: fewer than `most`.

    Each game goes to one of the decisions of a random game of its key, drawn uniformly.
    """
    decisions, _ = _play(game, states.copy(), keys, np.full(len(keys), most, np.int64), most)
    wanted = np.array([below(key, 0, max(count, 1)) for key, count in zip(keys, decisions, strict=True)], np.int64)
    return _play(game, states, keys, wanted, most)[1]


def _play(
    game: Game, states: npt.NDArray[Any], keys: npt.NDArray[np.uint64], wanted: Ints, most: int
) -> tuple[Ints, list[list[int]]]:
    """Play on until each game has had its `wanted` decisions or one move is left; return decisions and moves."""
    played: list[list[int]] = [[] for _ in keys]
    decisions, going = np.zeros(len(keys), np.int64), np.arange(len(keys))
    for turn in range(1, most):
        actions, choices = _random_moves(game, states[going], keys[going], turn)
        on = (decisions[going] < wanted[going]) | (choices == 1)
        going, actions, choices = going[on], actions[on], choices[on]
        after = states[going]
        game.step(after, actions)
        done, utility = np.zeros(len(going), np.bool_), np.zeros((len(going), game.num_players))
        game.outcome(after, done, utility)
        decisions[going] += choices > 1
        going, actions = going[~done], actions[~done]
        states[going] = after[~done]
        for i, action in zip(going.tolist(), actions.tolist(), strict=True):
            played[i].append(action)
    return decisions, played


def _random_moves(
    game: Game, states: npt.NDArray[Any], keys: npt.NDArray[np.uint64], turn: int
) -> tuple[npt.NDArray[np.int32], Ints]:
    """Return a legal action of each of `states`, and how many it has."""
    offsets = np.zeros(len(states) + 1, np.int64)
    actions, chosen = np.zeros(len(states) * game.max_legal, np.int32), np.empty(len(states), np.int32)
    game.legal(states, offsets, actions)
    draw_moves(keys, turn, offsets, actions, chosen)
    return chosen, np.diff(offsets)
