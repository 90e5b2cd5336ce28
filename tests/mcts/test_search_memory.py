"""Pools never overflow, and the stated bytes are what is allocated."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from grove.common.errors import SettingError
from grove.game.hex import Hex
from grove.mcts import Forest, SearchSettings, forest_capacity, make_cache
from tests.support.search_tools import (
    GAMES,
    HashEvaluator,
    assert_within,
    played,
    result,
    roots_of,
    run,
    search_settings,
    set_all_roots,
    start,
)


@pytest.mark.parametrize("trees", [1, 64])
@pytest.mark.parametrize("name", ["connect_four", "hex3", "hex7", "ring"])
@pytest.mark.parametrize("changes", [{"simulations": 100}, {"simulations": 30, "leaves": 8}, {"simulations": 800}])
def test_stated_bytes_are_allocated(name, trees, changes):
    rules = search_settings(**changes)
    stated = forest_capacity(GAMES[name], trees, rules).total_bytes
    Forest(GAMES[name], trees, rules)  # one-time costs
    tracemalloc.start()
    forest = Forest(GAMES[name], trees, rules)
    allocated = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert allocated - 16_384 <= 1.1 * stated
    assert allocated >= 0.9 * stated
    assert forest.capacity.total_bytes == stated


@pytest.mark.parametrize("cache", [0, 64])
def test_searching_allocates_nothing_that_stays(cache):
    rules = SearchSettings(simulations=50, cache=cache, reuse=True)
    game = GAMES["hex5"]
    forest, evaluator = Forest(game, 8, rules, make_cache(game, rules)), HashEvaluator(game, 2)
    pools = ("_trees", "_nodes", "_edges", "_legal", "_states")
    before = [getattr(forest, name) for name in pools]
    for _ in range(3):
        set_all_roots(forest, [(start(game), 0)] * 8, np.arange(8, dtype=np.uint64))
        run(forest, evaluator)
    assert all(getattr(forest, name) is array for name, array in zip(pools, before, strict=True))


def test_too_many_edges_are_refused():
    with pytest.raises(SettingError, match="2\\*\\*31"):
        forest_capacity(Hex(19), 1000, SearchSettings(simulations=100_000))


@pytest.mark.parametrize("name", ["connect_four", "hex2", "hex4", "hex7", "ring"])
@pytest.mark.parametrize("leaves", [1, 4])
@pytest.mark.parametrize("c_puct", [0.0, 1.25, 1000.0])
def test_whole_games_stay_within_the_pools(name, leaves, c_puct):
    """Reuse, cap, cache and noise together, over whole games with a tree as full as can be."""
    game = GAMES[name]
    rules = SearchSettings(simulations=90, leaves=leaves, c_puct=c_puct, reuse=True, cache=64, temperature="0:1,4:0")
    forest, evaluator = Forest(game, 6, rules, make_cache(game, rules)), HashEvaluator(game, game.num_players)
    trees = np.arange(6, dtype=np.int32)
    states, plies = [start(game, t) for t in range(6)], np.zeros(6, np.int32)
    set_all_roots(forest, list(zip(states, plies, strict=True)), np.arange(6, dtype=np.uint64))
    for _ in range(25):
        run(forest, evaluator)
        assert forest.search().tolist() == trees.tolist()
        visits = forest.root_visits(trees)
        assert (np.add.reduceat(visits[1][: visits[0][-1], 1], visits[0][:-1]) >= 90).all()
        actions = forest.choose(trees, visits)
        for t in range(6):
            after = played(game, states[t], int(actions[t]))
            over = result(game, after) is not None
            states[t], plies[t] = (start(game, t), 0) if over else (after, plies[t] + 1)
            actions[t] = -1 if over else actions[t]
        roots = roots_of(6, key=np.arange(6), ply=plies, target=90, action=actions)
        forest.set_roots(roots, np.concatenate(states))
        assert_within(forest)


def test_a_target_beyond_the_settings_is_refused():
    game = GAMES["connect_four"]
    forest = Forest(game, 1, search_settings(simulations=10))
    with pytest.raises(ValueError, match="simulations"):
        forest.set_roots(roots_of(1, target=11), start(game))
