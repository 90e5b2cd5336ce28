"""What the tests of worlds share: games that hide something, searches of them, and what stands in their forests."""

from __future__ import annotations

from typing import Any

import numpy as np

from grove.game import load_game
from grove.mcts import Forest
from tests.support.hidden_game import FiveHands, Hands
from tests.support.search_tools import HashEvaluator, random_position, run, search_settings, set_all_roots

HIDDEN = {
    "hands3": Hands(), "hands5": FiveHands(),
    "blob3": load_game("blob:players=3,cards=3"), "blob5": load_game("blob:players=5,cards=2"),
    "match3": load_game("blob:players=3,match=2"),
}  # fmt: skip
"""Games of three and five players; in hands and matches a world ends before the game does."""


def searched(name: str, changes: dict[str, Any], positions: list, keys: np.ndarray) -> Forest:
    """Return a forest that has searched all positions."""
    game, rules = HIDDEN[name], search_settings(**changes)
    forest = Forest(game, len(positions), rules)
    set_all_roots(forest, positions, keys)
    run(forest, HashEvaluator(game, game.num_players))
    return forest


def some_positions(name: str, count: int, seed: int) -> tuple[list, np.ndarray]:
    """Return unfinished positions of random games (state [1], ply), and a key for each."""
    game, rng = HIDDEN[name], np.random.default_rng(seed)
    plies = rng.integers(0, game.max_moves, count)
    return [random_position(game, rng, int(n)) for n in plies], rng.integers(0, 1 << 63, count, np.uint64)


def visits_of(forest: Forest, position: int) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in visited(forest, position).tolist()]


def visited(forest: Forest, position: int) -> np.ndarray:
    offsets, pairs = forest.root_visits(np.array([position], np.int32))
    return pairs[: offsets[1]]


def world_states(forest: Forest, position: int) -> list[bytes]:
    """Return the root states of the trees of a position."""
    worlds, nodes = forest.settings.worlds, forest.capacity.nodes
    return [forest._states[t * nodes].tobytes() for t in range(position * worlds, (position + 1) * worlds)]
