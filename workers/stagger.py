"""Games that begin in the middle, so that a measurement finds a pool as it is after hours of play.

Games of one length that start together end together: a measurement shorter than a game would count none of them, or
all. With random moves up to a random ply each, as many end at any time as in the long run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from common.rng import below
from game.contract import Game
from workers.row_kernels import draw_moves


def play_ahead(game: Game, states: npt.NDArray[Any], keys: npt.NDArray[np.uint64], most: int) -> list[list[int]]:
    """Play random moves in `states` (S [B], in place) and return them, per game.

    Each game goes to a ply drawn uniformly from 0..most - 1 by its key, or to the last before its end.
    """
    wanted = np.array([below(key, 0, most) for key in keys], np.int64)
    played: list[list[int]] = [[] for _ in keys]
    going = np.arange(len(keys))
    for turn in range(most):
        going = going[wanted[going] > turn]
        if not len(going):
            break
        before = states[going]
        after, actions = before.copy(), _random_moves(game, before, keys[going], turn + 1)
        game.step(after, actions)
        done, utility = np.zeros(len(going), np.bool_), np.zeros((len(going), game.num_players))
        game.outcome(after, done, utility)
        going = going[~done]
        states[going] = after[~done]
        for i, action in zip(going.tolist(), actions[~done].tolist(), strict=True):
            played[i].append(action)
    return played


def _random_moves(
    game: Game, states: npt.NDArray[Any], keys: npt.NDArray[np.uint64], turn: int
) -> npt.NDArray[np.int32]:
    offsets = np.zeros(len(states) + 1, np.int64)
    actions, chosen = np.zeros(len(states) * game.max_legal, np.int32), np.empty(len(states), np.int32)
    game.legal(states, offsets, actions)
    draw_moves(keys, turn, offsets, actions, chosen)
    return chosen
