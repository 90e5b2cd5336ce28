"""The search of worlds equals its slow twin: every tree edge for edge, the summed visits, the mean values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.mcts import Forest, SearchSettings, make_cache
from tests.support.naive import NaiveWorlds, legal_actions
from tests.support.search_tools import (
    HashEvaluator,
    forest_tree,
    naive_tree,
    played,
    random_position,
    result,
    run,
    run_untidily,
    set_all_roots,
)
from tests.support.world_tools import HIDDEN, searched, some_positions, visited, visits_of, world_states

quick = settings(deadline=None, derandomize=True, database=None)

world_rules = st.fixed_dictionaries({
    "simulations": st.integers(5, 40),
    "worlds": st.sampled_from([1, 2, 3]),
    "simulations_per": st.sampled_from(["world", "decision"]),
    "c_puct": st.sampled_from([0.3, 1.25, 4.0]),
    "fpu_reduction": st.sampled_from([-0.5, 0.2]),
    "noise_fraction": st.sampled_from([0.0, 0.25]),
    "max_moves": st.sampled_from([0, 0, 8]),
    "cache": st.sampled_from([0, 4, 1000]),
})  # fmt: skip


class Sides:
    """A forest and one slow twin per position, side by side."""

    def __init__(self, name: str, rules: dict, seed: int, positions: int = 3, scale: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.game, self.rng, self.count = HIDDEN[name], rng, positions
        self.rules = SearchSettings(**rules)
        self.evaluator = HashEvaluator(self.game, self.game.num_players, scale)
        self.forest = Forest(self.game, positions, self.rules, make_cache(self.game, self.rules))
        self.twins = [NaiveWorlds(self.game, self.rules, self.evaluator) for _ in range(positions)]
        self.keys = rng.integers(0, 1 << 63, positions, np.uint64)
        self.cap = min(self.rules.max_moves or self.game.max_moves, self.game.max_moves)
        plies = rng.integers(0, self.cap, positions)
        self.positions = [random_position(self.game, rng, int(n)) for n in plies]

    def set_roots(self) -> None:
        set_all_roots(self.forest, self.positions, self.keys)
        for twin, (state, ply), key in zip(self.twins, self.positions, self.keys, strict=True):
            twin.set_roots(state, int(key), ply)

    def compare(self) -> None:
        which = np.arange(self.count, dtype=np.int32)
        assert self.forest.search().tolist() == which.tolist()
        values = self.forest.root_values(which)
        for p, twin in enumerate(self.twins):
            twin.run()
            for w, search in enumerate(twin.searches):
                assert forest_tree(self.forest, p * self.rules.worlds + w) == naive_tree(search)
            assert visits_of(self.forest, p) == twin.root_visits()
            assert values[p].tolist() == twin.root_value()
            assert world_states(self.forest, p) == [world.tobytes() for world in twin.worlds]
            found = sorted(state.tobytes() for state in self.forest.evaluated_states(p))
            assert len(found) == sum(1 + twin_nodes(search.root) for search in twin.searches)

    def move(self) -> None:
        """Play a random move in every position that it does not end."""
        for p, (state, ply) in enumerate(self.positions):
            after = played(self.game, state, int(self.rng.choice(legal_actions(self.game, state))))
            if result(self.game, after) is None and ply + 1 < self.cap:
                self.positions[p] = after, ply + 1


def twin_nodes(node) -> int:
    """Return the evaluated nodes below `node`."""
    children = [edge.child for edge in node.edges if edge.child is not None and not edge.child.terminal]
    return len(children) + sum(twin_nodes(child) for child in children)


@pytest.mark.parametrize("name", HIDDEN)
@settings(quick, max_examples=25)
@given(world_rules, st.sampled_from([0.0, 1.0, 5.0]), st.booleans(), st.integers(0, 2**32 - 1))
def test_worlds_equal_their_slow_twin(name, rules, scale, untidy, seed):
    sides = Sides(name, rules, seed, scale=scale)
    for move in range(2):
        if move > 0:
            sides.move()
        sides.set_roots()
        if untidy:
            run_untidily(sides.forest, sides.evaluator, sides.rng, 0.2)
        else:
            run(sides.forest, sides.evaluator)
        sides.compare()


@pytest.mark.parametrize("name", ["hands3", "hands5", "blob3", "blob5"])
@pytest.mark.parametrize("worlds", [1, 2, 3])
def test_200_simulations_equal_their_slow_twin(name, worlds):
    sides = Sides(name, {"simulations": 200, "worlds": worlds}, worlds, positions=2)
    sides.set_roots()
    run(sides.forest, sides.evaluator)
    sides.compare()


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("leaves", [1, 4])
def test_order_subsets_and_drops_change_nothing(name, leaves):
    positions, keys = some_positions(name, 4, 5)
    rules = {"worlds": 3, "simulations": 30, "noise_fraction": 0.25, "leaves": leaves}
    tidy = searched(name, rules, positions, keys)
    game, rng = HIDDEN[name], np.random.default_rng(1)
    untidy = Forest(game, 4, tidy.settings)
    set_all_roots(untidy, positions, keys)
    run_untidily(untidy, HashEvaluator(game, game.num_players), rng, 0.3)
    assert untidy.search().tolist() == [0, 1, 2, 3]
    for p in range(4):
        assert visited(untidy, p)[:, 1].sum() == 90
        if leaves == 1:
            assert visits_of(untidy, p) == visits_of(tidy, p)
