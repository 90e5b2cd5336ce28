"""The forest equals its slow twin edge for edge: priors, visits, value sums, in every node of the tree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.mcts import Forest, SearchSettings, make_cache
from tests.support.naive import NaiveSearch, legal_actions
from tests.support.search_tools import (
    GAMES,
    HashEvaluator,
    assert_within,
    forest_tree,
    naive_tree,
    played,
    random_position,
    result,
    roots_of,
    run,
    set_all_roots,
)

search_rules = st.fixed_dictionaries({
    "simulations": st.integers(1, 40) | st.integers(40, 150),
    "c_puct": st.sampled_from([0.0, 0.3, 1.25, 4.0]),
    "c_puct_base": st.sampled_from([1.0, 50.0, 19652.0]),
    "fpu_reduction": st.sampled_from([-0.5, 0.0, 0.2, 1.0]),
    "noise_fraction": st.sampled_from([0.0, 0.25, 1.0]),
    "noise_alpha": st.sampled_from([0.0, 0.03, 1.5]),
    "max_moves": st.sampled_from([0, 0, 6, 12]),
    "timeout_utility": st.sampled_from([-1.0, 0.0, 0.7]),
    "reuse": st.booleans(),
    "cache": st.sampled_from([0, 4, 1000]),
})  # fmt: skip
evaluations = st.fixed_dictionaries({
    "narrow": st.booleans(),
    "scale": st.sampled_from([0.0, 1.0, 5.0]),
    "coarse": st.booleans(),
})  # fmt: skip
quick = settings(deadline=None, derandomize=True, database=None)


class Pair:
    """A forest and one slow twin per tree, side by side on the same positions."""

    def __init__(self, name: str, rules: dict, evaluation: dict, rng: np.random.Generator, trees: int = 3) -> None:
        self.game, self.rng, self.trees = GAMES[name], rng, trees
        self.rules = SearchSettings(**rules)
        width = 1 if evaluation["narrow"] and self.game.zero_sum else self.game.num_players
        self.evaluator = HashEvaluator(self.game, width, evaluation["scale"], evaluation["coarse"])
        self.forest = Forest(self.game, trees, self.rules, make_cache(self.game, self.rules))
        self.twins = [NaiveSearch(self.game, self.rules, self.evaluator) for _ in range(trees)]
        self.keys = rng.integers(0, 1 << 63, trees, np.uint64)
        # The cap must lie beyond the root.
        most = min(self.rules.max_moves or self.game.max_moves, self.game.max_moves) - 1
        self.positions = [random_position(self.game, rng, int(rng.integers(0, most + 1))) for _ in range(trees)]

    def set_roots(self) -> None:
        set_all_roots(self.forest, self.positions, self.keys)
        for twin, (state, ply), key in zip(self.twins, self.positions, self.keys, strict=True):
            twin.set_roots(state, int(key), ply)

    def search_and_compare(self, dense: bool = True) -> None:
        run(self.forest, self.evaluator, dense)
        trees = np.arange(self.trees, dtype=np.int32)
        assert self.forest.search().tolist() == trees.tolist()
        offsets, pairs = self.forest.root_visits(trees)
        values = self.forest.root_values(trees)
        for t, twin in enumerate(self.twins):
            twin.run()
            assert forest_tree(self.forest, t) == naive_tree(twin)
            assert [tuple(p) for p in pairs[offsets[t] : offsets[t + 1]].tolist()] == twin.root_visits()
            assert values[t].tolist() == [total / twin.visits for total in twin.value]

    def move(self, t: int) -> int | None:
        """Play the most visited or any legal move in tree `t`; None (and nothing) where that would end the game."""
        state, ply = self.positions[t]
        visits = sorted(self.twins[t].root_visits(), key=lambda pair: -pair[1])
        action = visits[0][0] if self.rng.random() < 0.7 else int(self.rng.choice(legal_actions(self.game, state)))
        after = played(self.game, state, action)
        if result(self.game, after) is not None or ply + 1 >= self.twins[t].max_ply:
            return None
        self.positions[t] = after, ply + 1
        return action

    def replant(self) -> None:
        """Play a move in every tree that can go on, and search again from there; the others stay as they are."""
        moved = {t: action for t in range(self.trees) if (action := self.move(t)) is not None}
        which = list(moved)
        fields = {"key": self.keys[which], "ply": [self.positions[t][1] for t in which], "action": list(moved.values())}
        roots = roots_of(len(which), target=self.rules.simulations, **fields)
        roots["tree"] = which
        if which:
            self.forest.set_roots(roots, np.concatenate([self.positions[t][0] for t in which]))
        for t, action in moved.items():
            if self.rules.reuse:
                self.twins[t].advance(action, int(self.keys[t]))
            else:
                self.twins[t].set_roots(self.positions[t][0], int(self.keys[t]), self.positions[t][1])


@pytest.mark.parametrize("name", GAMES)
@settings(quick, max_examples=30)
@given(search_rules, evaluations, st.booleans(), st.integers(0, 2**32 - 1))
def test_forest_equals_twin(name, rules, evaluation, dense, seed):
    pair = Pair(name, rules, evaluation, np.random.default_rng(seed))
    pair.set_roots()
    for move in range(3):
        if move > 0:
            pair.replant()
        pair.search_and_compare(dense)
        assert_within(pair.forest)


@pytest.mark.parametrize("name", ["connect_four", "hex5", "ring"])
@pytest.mark.parametrize("reuse", [False, True])
def test_500_simulations(name, reuse):
    rules = {"simulations": 500, "reuse": reuse}
    pair = Pair(name, rules, {"narrow": False, "scale": 1.0, "coarse": False}, np.random.default_rng(500))
    pair.set_roots()
    pair.search_and_compare()
    pair.replant()
    pair.search_and_compare()


def test_reuse_keeps_the_subtree_and_tops_up_to_the_wanted_simulations():
    game = GAMES["connect_four"]
    rules = SearchSettings(simulations=200, reuse=True)
    forest, evaluator = Forest(game, 1, rules), HashEvaluator(game, 2)
    state, _ = random_position(game, np.random.default_rng(1), 0)
    set_all_roots(forest, [(state, 0)], np.zeros(1, np.uint64))
    run(forest, evaluator)
    _, pairs = forest.root_visits(np.zeros(1, np.int32))
    action, visits = pairs[pairs[: game.num_actions, 1].argmax()].tolist()
    assert evaluator.rows == 201
    forest.set_roots(roots_of(1, ply=1, target=200, action=action), played(game, state, action))
    assert int(forest._trees["simulations"].sum()) == visits - 1
    run(forest, evaluator)
    assert int(forest._trees["simulations"].sum()) == 200
    assert evaluator.rows == 201 + 200 - (visits - 1)


def test_trees_start_and_rest_on_their_own():
    game = GAMES["hex4"]
    rng = np.random.default_rng(7)
    rules = SearchSettings(simulations=60)
    pair = Pair("hex4", {"simulations": 60}, {"narrow": False, "scale": 1.0, "coarse": False}, rng, trees=4)
    forest = Forest(game, 4, rules)
    assert len(forest.ask().ids) == 0
    assert len(forest.search()) == 0
    for t in (2, 0):  # tree 1 is put to rest, tree 3 never gets a root
        roots = roots_of(1, key=pair.keys[t], ply=pair.positions[t][1], target=60)
        roots["tree"] = t
        forest.set_roots(roots, pair.positions[t][0])
    rest = roots_of(1, target=0)
    rest["tree"] = 1
    forest.set_roots(rest, pair.positions[1][0])
    run(forest, pair.evaluator)
    assert forest.search().tolist() == [0, 2]
    for t in (0, 2):
        pair.twins[t].set_roots(pair.positions[t][0], int(pair.keys[t]), pair.positions[t][1])
        pair.twins[t].run()
        assert forest_tree(forest, t) == naive_tree(pair.twins[t])


def test_a_forced_move_is_searched_like_any_other():
    game = GAMES["connect_four"]
    state = None
    for seed in range(1000):  # a position with one free column
        state, ply = random_position(game, np.random.default_rng(seed), 40)
        if len(legal_actions(game, state)) == 1:
            break
    rules = SearchSettings(simulations=50, reuse=True)
    evaluator = HashEvaluator(game, 2)
    forest, twin = Forest(game, 1, rules), NaiveSearch(game, rules, evaluator)
    set_all_roots(forest, [(state, ply)], np.array([9], np.uint64))
    run(forest, evaluator)
    twin.set_roots(state, 9, ply)
    twin.run()
    assert forest_tree(forest, 0) == naive_tree(twin)
    assert forest.root_visits(np.zeros(1, np.int32))[1][0, 1] == 50
