"""The evaluation cache and the merging of identical leaves: fewer rows, the same visits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.common.rng import derive
from grove.mcts import EvaluationCache, Forest, SearchSettings, make_cache
from grove.mcts.kernels import layout
from grove.mcts.kernels.cache import ENTRY
from tests.support.positions import GAMES, random_position, some_positions
from tests.support.search_tools import (
    HashEvaluator,
    all_trees,
    run,
    search_settings,
    set_all_roots,
)

quick = settings(deadline=None, derandomize=True, database=None)


def search(name: str, rules: SearchSettings, cache: EvaluationCache | None, seed: int, version: str = "") -> tuple:
    """Search four positions, two of them equal; return the trees and the rows evaluated."""
    positions, keys = some_positions(GAMES[name], 4, seed)
    forest, evaluator = Forest(GAMES[name], 4, rules, cache), HashEvaluator(GAMES[name])
    set_all_roots(forest, [*positions[:3], positions[0]], keys)
    run(forest, evaluator, dense=bool(seed % 2), version=version)
    return all_trees(forest), evaluator.rows


@pytest.mark.parametrize("name", GAMES)
@settings(quick, max_examples=8)
@given(
    st.integers(1, 80),
    st.sampled_from([1, 4, 7, 64, 5000]),
    st.sampled_from([0.0, 0.25]),
    st.integers(0, 2**32 - 1),
)
def test_cache_changes_no_visit(name, simulations, capacity, noise, seed):
    rules = SearchSettings(simulations=simulations, noise_fraction=noise, cache=capacity)
    plain, plain_rows = search(name, rules, None, seed)
    cached, cached_rows = search(name, rules, make_cache(GAMES[name], rules), seed)
    assert cached == plain
    assert cached_rows < plain_rows  # at least the two equal roots are merged


@pytest.mark.parametrize("name", ["connect_four", "ring"])
@pytest.mark.parametrize("capacity", [4, 1000])
def test_hash_collisions_are_harmless(name, capacity, monkeypatch):
    game, rules = GAMES[name], search_settings(cache=capacity)
    plain, _ = search(name, rules, None, 3)
    monkeypatch.setattr("grove.mcts.kernels.rows.hash_rows", lambda rows, hashes: hashes.fill(7))
    cache = make_cache(game, rules)
    collided, _ = search(name, rules, cache, 3)
    assert collided == plain
    for rows in (2, 0):  # the newest four are still found
        forest, evaluator = Forest(game, 1, search_settings(simulations=1), cache), HashEvaluator(game)
        set_all_roots(forest, [random_position(game, np.random.default_rng(50), 2)], np.zeros(1, np.uint64))
        run(forest, evaluator)
        assert evaluator.rows == rows
    assert (cache.entries["generation"] > 0).sum() == 4  # all of them in one set


@pytest.mark.parametrize(("name", "capacity"), [("connect_four", 4), ("hex7", 1000), ("ring", 5)])
def test_cache_is_bounded_by_the_stated_bytes(name, capacity):
    game, rules = GAMES[name], search_settings(simulations=300, cache=capacity)
    cache = make_cache(game, rules)
    for seed in range(3):
        search(name, rules, cache, seed)
    row = ENTRY.itemsize + int(np.prod(game.observation_shape)) + 4 * game.max_legal + 4 * game.num_players
    assert cache.total_bytes == -(-capacity // 4) * 4 * row
    assert make_cache(game, search_settings(cache=0)) is None


def test_hits_and_lookups_add_up():
    """Every leaf is looked up once; what is not found is asked or merged."""
    rules = search_settings(simulations=200, cache=100_000)
    cache = make_cache(GAMES["connect_four"], rules)
    trees, rows = search("connect_four", rules, cache, 2)
    leaves = sum(1 + sum(len(v) == 5 and not v[4] for p, v in tree.items() if p) for tree in trees)
    assert cache.lookups == leaves
    assert rows <= cache.lookups - cache.hits < cache.lookups


def test_a_search_asks_nothing_twice_until_a_new_version_forgets_the_old_one():
    rules = search_settings(simulations=50, cache=100_000)
    cache = make_cache(GAMES["hex5"], rules)
    trees, first = search("hex5", rules, cache, 1, "a")
    lookups, hits = cache.lookups, cache.hits
    assert search("hex5", rules, cache, 1, "a") == (trees, 0)
    assert cache.lookups - lookups == cache.hits - hits > 0
    # The answer with the other name arrives with the first row that must be asked: a position not seen before.
    search("hex5", rules, cache, 2, "b")
    _, anew = search("hex5", rules, cache, 1, "b")
    _, back = search("hex5", rules, cache, 1, "b")
    assert (anew, back) == (first, 0)
    search("hex5", rules, cache, 3, "a")
    assert search("hex5", rules, cache, 1, "a")[1] == first


def test_values_of_another_width_forget_too():
    game, rules = GAMES["hex5"], search_settings(simulations=30, cache=1000)
    cache, position = make_cache(GAMES["hex5"], rules), random_position(GAMES["hex5"], np.random.default_rng(0), 3)
    trees = []
    for width in (1, 2, 1):
        forest, evaluator = Forest(game, 1, rules, cache), HashEvaluator(game, width)
        other = random_position(game, np.random.default_rng(width), 7)
        for position_ in (other, position):  # the other position brings the new width
            set_all_roots(forest, [position_], np.zeros(1, np.uint64))
            run(forest, evaluator)
        trees.append(all_trees(forest))
    assert trees[0] == trees[2] != trees[1]


@quick
@given(st.integers(1, 24), st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=60))
def test_table_returns_what_was_stored_last(capacity, accesses):
    """Against a dictionary: a hit is always the last stored answer; the newest four of a set are never lost."""
    cache = EvaluationCache(capacity, 3, 2)
    stored: dict[int, float] = {}
    recent: list[int] = []
    sets = len(cache.entries) // 4
    for number, (key, put) in enumerate(accesses):
        row = np.array([[key, 1, 2]], np.uint8)
        key_hash = np.array([derive(np.uint64(5), key % 4)], np.uint64)  # few hashes: whole keys must decide
        found = np.zeros(1, np.int32)
        if put:
            store_one(cache, row, key_hash, float(number))
            stored[key] = float(number)
        elif cache.find(key_hash, row, found):
            assert cache.values[found[0]].tolist() == [stored[key]]
            assert cache.logits[found[0]].tolist() == [stored[key], stored[key] + 0.5]
        else:
            same_set = [k for k in recent if derive(np.uint64(5), k % 4) % sets == int(key_hash[0]) % sets]
            assert key not in list(dict.fromkeys(reversed(same_set)))[:4]
            continue
        recent.append(key)


def store_one(cache: EvaluationCache, row: np.ndarray, key_hash: np.ndarray, value: float) -> None:
    leaves, told = np.zeros(1, layout.LEAF), np.zeros(1, layout.TOLD)
    leaves["hash"], leaves["legal"] = key_hash, 2
    logits = np.array([value, value + 0.5], np.float32)
    answers = (logits, np.array([[value]], np.float32), True, "v")
    cache.store(leaves, row, np.array([[0, 1]], np.int32), told, answers)
