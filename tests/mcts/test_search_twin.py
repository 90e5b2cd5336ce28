"""The forest equals its slow twin edge for edge: priors, visits, value sums, in every node of every tree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.mcts import Forest, SearchSettings, make_cache
from tests.support.naive import NaiveDecision, NaiveSearch
from tests.support.positions import (
    ALL,
    GAMES,
    HIDDEN,
    legal_actions,
    observation,
    played,
    random_position,
    result,
    some_positions,
)
from tests.support.search_tools import (
    HashEvaluator,
    all_trees,
    assert_within,
    done,
    forest_tree,
    naive_tree,
    path_of,
    rooted,
    roots_of,
    run,
    run_untidily,
    set_all_roots,
    visits_of,
    world_states,
)

quick = settings(deadline=None, derandomize=True, database=None)
rules_of_games = st.fixed_dictionaries({
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
rules_of_worlds = st.fixed_dictionaries({
    "simulations": st.integers(5, 40),
    "worlds": st.sampled_from([1, 2, 3]),
    "simulations_per": st.sampled_from(["world", "decision"]),
    "c_puct": st.sampled_from([0.3, 1.25, 4.0]),
    "fpu_reduction": st.sampled_from([-0.5, 0.2]),
    "noise_fraction": st.sampled_from([0.0, 0.25]),
    "max_moves": st.sampled_from([0, 0, 8]),
    "cache": st.sampled_from([0, 4, 1000]),
})  # fmt: skip
rules_of_leaves = st.fixed_dictionaries({
    "simulations": st.integers(1, 60),
    "leaves": st.sampled_from([1, 2, 3, 8, 40]),
    "virtual_loss": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    "c_puct": st.sampled_from([0.0, 1.25, 4.0]),
    "fpu_reduction": st.sampled_from([-0.5, 0.2, 1.0]),
    "noise_fraction": st.sampled_from([0.0, 0.25]),
    "max_moves": st.sampled_from([0, 30]),
})  # fmt: skip
evaluations = st.fixed_dictionaries({
    "narrow": st.booleans(),
    "scale": st.sampled_from([0.0, 1.0, 5.0]),
    "coarse": st.booleans(),
})  # fmt: skip
seeds = st.integers(0, 2**32 - 1)


class Pair:
    """A forest and one slow twin per position, side by side."""

    def __init__(
        self, name: str, rules: dict, seed: int, positions: int = 3, narrow: bool = False, **evaluation: object
    ) -> None:
        rng = np.random.default_rng(seed)
        self.game, self.rng, self.count = ALL[name], rng, positions
        self.rules = SearchSettings(**rules)
        self.evaluator = HashEvaluator(self.game, int(narrow and self.game.zero_sum), **evaluation)
        self.forest = Forest(self.game, positions, self.rules, make_cache(self.game, self.rules))
        self.twins = [NaiveDecision(self.game, self.rules, self.evaluator) for _ in range(positions)]
        self.keys = rng.integers(0, 1 << 63, positions, np.uint64)
        self.cap = min(self.rules.max_moves or self.game.max_moves, self.game.max_moves)
        self.positions = [random_position(self.game, rng, int(n)) for n in rng.integers(0, self.cap, positions)]

    def set_roots(self) -> None:
        set_all_roots(self.forest, self.positions, self.keys)
        for twin, (state, ply), key in zip(self.twins, self.positions, self.keys, strict=True):
            twin.set_roots(state, int(key), ply)

    def compare(self) -> None:
        which = np.arange(self.count, dtype=np.int32)
        assert self.forest.search().tolist() == which.tolist()
        assert_within(self.forest)
        trees, values = all_trees(self.forest), self.forest.root_values(which)
        for p, twin in enumerate(self.twins):
            twin.run()
            mine = trees[p * self.rules.worlds : (p + 1) * self.rules.worlds]
            assert mine == [*map(naive_tree, twin.searches)]
            inner = [1 + sum(len(v) == 5 and not v[4] for v in tree.values()) for tree in mine]
            assert len(self.forest.evaluated_states(p)) == sum(inner)
            assert visits_of(self.forest, p) == twin.root_visits()
            assert values[p].tolist() == twin.root_value()
            assert world_states(self.forest, p) == [search.root.state.tobytes() for search in twin.searches]

    def move(self) -> None:
        """Play a move in every position that it does not end, and search again from there; the others stay."""
        moves = {p: action for p in range(self.count) if (action := self.one_move(p)) is not None}
        which = list(moves)
        fields = {"key": self.keys[which], "ply": [self.positions[p][1] for p in which], "action": list(moves.values())}
        roots = roots_of(len(which), target=self.rules.simulations, **fields)
        roots["tree"] = which
        if which:
            self.forest.set_roots(roots, np.concatenate([self.positions[p][0] for p in which]))
        for p, action in moves.items():
            if self.rules.reuse:
                self.twins[p].searches[0].advance(action, int(self.keys[p]))
            else:
                self.twins[p].set_roots(self.positions[p][0], int(self.keys[p]), self.positions[p][1])

    def one_move(self, p: int) -> int | None:
        """Play the most visited or any legal move; None, and nothing, where that would end the game."""
        state, ply = self.positions[p]
        best = max(self.twins[p].root_visits(), key=lambda pair: pair[1])[0]
        action = best if self.rng.random() < 0.7 else int(self.rng.choice(legal_actions(self.game, state)))
        after = played(self.game, state, action)
        if result(self.game, after) is not None or ply + 1 >= self.cap:
            return None
        self.positions[p] = after, ply + 1
        return action


@pytest.mark.parametrize("name", GAMES)
@settings(quick, max_examples=30)
@given(rules_of_games, evaluations, st.booleans(), seeds)
def test_forest_equals_twin(name, rules, evaluation, dense, seed):
    pair = Pair(name, rules, seed, **evaluation)
    pair.set_roots()
    for move in range(3):
        if move > 0:
            pair.move()
        run(pair.forest, pair.evaluator, dense)
        pair.compare()


@pytest.mark.parametrize("name", HIDDEN)
@settings(quick, max_examples=25)
@given(rules_of_worlds, st.sampled_from([0.0, 1.0, 5.0]), st.booleans(), seeds)
def test_worlds_equal_their_twin(name, rules, scale, untidy, seed):
    pair = Pair(name, rules, seed, scale=scale)
    pair.set_roots()
    for move in range(2):
        if move > 0:
            pair.move()
        if untidy:
            run_untidily(pair.forest, pair.evaluator, pair.rng, 0.2)
        else:
            run(pair.forest, pair.evaluator)
        pair.compare()


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        *(("connect_four", {"reuse": reuse}) for reuse in (False, True)),
        *(("hex5", {}), ("ring", {"reuse": True})),
        *(("blob3", {"worlds": 2}), ("match3", {})),
    ],
)
def test_many_simulations_equal_their_twin(name, rules):
    pair = Pair(name, {"simulations": 400, **rules}, 500, positions=2)
    pair.set_roots()
    for _ in range(2):
        run(pair.forest, pair.evaluator)
        pair.compare()
        pair.move()


@pytest.mark.parametrize("name", ["connect_four", "hex3", "hex4", "ring"])
@settings(quick, max_examples=15)
@given(rules_of_leaves, st.sampled_from([0.0, 0.3]), seeds)
def test_many_waiting_leaves_equal_their_twin(name, rules, drops, seed):
    rng = np.random.default_rng(seed)
    game, evaluator, rules = GAMES[name], HashEvaluator(GAMES[name]), SearchSettings(**rules)
    positions, keys = some_positions(game, 2, seed)
    forest = rooted(name, rules, positions, keys)
    run(forest, evaluator, asks=1)
    twins = [NaiveSearch(game, rules, evaluator) for _ in range(2)]
    for twin, (state, ply), key in zip(twins, positions, keys, strict=True):
        twin.set_roots(state, int(key), ply)
    open_rows: dict[int, tuple] = {}
    while True:
        rows = forest.ask()
        for t, twin in enumerate(twins):
            mine = [i for i in rows.ids.tolist() if i // rules.leaves == t]
            paths = twin.ask()
            assert [path_of(forest, i) for i in mine] == [tuple(e.action for _, e in path) for path in paths]
            open_rows |= {i: (twin, path) for i, path in zip(mine, paths, strict=True)}
        if not open_rows:
            break
        chosen = rng.permutation(sorted(open_rows))[: rng.integers(1, len(open_rows) + 1)].astype(np.int32)
        dropped = rng.random(len(chosen)) < drops
        states = forest.states_of(chosen[~dropped])
        seen = [observation(game, states[i : i + 1]) for i in range(len(states))]
        forest.tell(chosen[~dropped], *evaluator.batch(np.array(seen)))
        forest.drop(chosen[dropped])
        for i in [*chosen[~dropped].tolist(), *chosen[dropped].tolist()]:
            twin, path = open_rows.pop(i)
            (twin.drop if i in chosen[dropped] else twin.tell)(path)
    assert all_trees(forest) == [naive_tree(twin) for twin in twins]
    assert done(forest) == [rules.simulations] * 2


def test_trees_start_and_rest_on_their_own():
    pair = Pair("hex4", {"simulations": 60}, 7, positions=4)
    forest = Forest(pair.game, 4, pair.rules)
    assert len(forest.ask().ids) == len(forest.search()) == 0
    for t, target in ((2, 60), (0, 60), (1, 0)):  # tree 1 is put to rest, tree 3 never gets a root
        roots = roots_of(1, key=pair.keys[t], ply=pair.positions[t][1], target=target)
        roots["tree"] = t
        forest.set_roots(roots, pair.positions[t][0])
    run(forest, pair.evaluator)
    assert forest.search().tolist() == [0, 2]
    pair.set_roots()
    for t in (0, 2):
        pair.twins[t].run()
        assert forest_tree(forest, t) == naive_tree(pair.twins[t].searches[0])
