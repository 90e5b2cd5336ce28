"""Games by short name, and how tests ask one position of a game: states of batches of one."""

from __future__ import annotations

import numpy as np

from grove.game import load_game
from grove.game.connect_four import ConnectFour
from grove.game.hex import Hex

GAMES = {
    **{"connect_four": ConnectFour(), "ring": load_game("tests.support.three_player:Ring")},
    **{"stairs": load_game("tests.support.one_player:Stairs")},
    **{f"hex{n}": Hex(n) for n in (2, 3, 4, 5, 7)},
}
"""Ring has three players who may move twice in a row, and its utilities do not sum to zero; stairs has one player. Both
are plain Python."""
HIDDEN = {
    "blob3": load_game("blob:players=3,cards=3"),
    "blob5": load_game("blob:players=5,cards=2"),
    "match3": load_game("blob:players=3,match=2"),
}
"""Games that hide something; in a match a world ends before the game does."""
ALL = GAMES | HIDDEN


def start(game, seed: int = 0) -> np.ndarray:
    states = np.zeros(1, game.state_dtype)
    game.initial(np.array([seed], np.uint64), states)
    return states


def played(game, state: np.ndarray, *actions: int) -> np.ndarray:
    """Return a copy of `state` after the actions."""
    after = state.copy()
    for action in actions:
        game.step(after, np.array([action], np.int32))
    return after


def line(game, moves: str) -> np.ndarray:
    """Return the position after `moves`, texts separated by spaces."""
    return played(game, start(game), *(game.parse(text) for text in moves.split()))


def result(game, state: np.ndarray) -> list[float] | None:
    """Return the utilities of a finished game, None while it goes on."""
    done, utility = np.zeros(1, bool), np.zeros((1, game.num_players))
    game.outcome(state, done, utility)
    return utility[0].tolist() if done[0] else None


def mover(game, state: np.ndarray) -> int:
    out = np.zeros(1, np.int8)
    game.to_play(state, out)
    return int(out[0])


def legal_actions(game, state: np.ndarray) -> list[int]:
    offsets, actions = np.zeros(2, np.int64), np.zeros(game.max_legal, np.int32)
    game.legal(state, offsets, actions)
    return actions[: offsets[1]].tolist()


def observation(game, state: np.ndarray) -> np.ndarray:
    out = np.zeros((1, *game.observation_shape), game.observation_dtype)
    game.observe(state, out)
    return out[0]


def random_position(game, rng: np.random.Generator, plies: int) -> tuple[np.ndarray, int]:
    """Return an unfinished position and its ply: up to `plies` random moves from a random start."""
    state, ply = start(game, int(rng.integers(0, 1 << 62))), 0
    while ply < plies:
        after = played(game, state, int(rng.choice(legal_actions(game, state))))
        if result(game, after) is not None:
            break
        state, ply = after, ply + 1
    return state, ply


def some_positions(game, count: int, seed: int) -> tuple[list[tuple[np.ndarray, int]], np.ndarray]:
    """Return random unfinished positions with their plies, and a key for each."""
    rng = np.random.default_rng(seed)
    plies = rng.integers(0, max(1, game.max_moves // 2), count)
    return [random_position(game, rng, int(n)) for n in plies], rng.integers(0, 1 << 63, count, np.uint64)
