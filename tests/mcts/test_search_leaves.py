"""More than one leaf per tree: virtual loss, leaves kept distinct, and the exact number of simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.mcts import NONE, Forest, make_cache
from tests.support.naive import Edge, NaiveSearch, Node
from tests.support.search_tools import (
    GAMES,
    HashEvaluator,
    assert_within,
    forest_tree,
    naive_tree,
    observation,
    random_position,
    run,
    run_untidily,
    search_settings,
    set_all_roots,
)


class PatientTwin(NaiveSearch):
    """The slow twin with up to `leaves` leaves waiting: a waiting visit counts as a visit that lost `virtual_loss`."""

    def set_roots(self, state: np.ndarray, key: int, ply: int) -> None:
        super().set_roots(state, key, ply)
        self.waiting: list[list[tuple[Node, Edge]]] = []
        self.collided = False

    def ask(self) -> list[list[tuple[Node, Edge]]]:
        """Return the new waiting leaves as paths from the root."""
        asked = []
        s = self.settings
        while not self.collided and len(self.waiting) < s.leaves:
            if self.visits - 1 + len(self.waiting) >= s.simulations:
                break
            path = self.walk()
            edge = path[-1][1]
            if edge.visits > 0:
                self.back_up(path)
            elif any(old[-1][1] is edge for old in self.waiting):
                self.collided = True
            elif self.outcome(path) is not None:
                self.open(path)
                edge.child = super().make_child(path[-1][0], edge.action)
                self.back_up(path)
            else:
                self.open(path)
                self.waiting.append(path)
                asked.append(path)
        return asked

    def outcome(self, path: list[tuple[Node, Edge]]) -> list[float] | None:
        """Return the utilities where the path ends the game."""
        node, edge = path[-1]
        expand, self.expand = self.expand, Node
        child = super().make_child(node, edge.action)
        self.expand = expand
        return child.value if child.terminal else None

    def open(self, path: list[tuple[Node, Edge]]) -> None:
        node, edge = path[-1]
        node.order.append(edge)
        edge.value = [0.0] * self.game.num_players
        node.visited_prior = sum((float(e.prior) for e in node.order), 0.0)

    def tell(self, path: list[tuple[Node, Edge]]) -> None:
        self.forget(path)
        path[-1][1].child = super().make_child(path[-1][0], path[-1][1].action)
        self.back_up(path)

    def drop(self, path: list[tuple[Node, Edge]]) -> None:
        self.forget(path)
        node, edge = path[-1]
        node.order = [e for e in node.order if e is not edge]
        edge.value = []
        node.visited_prior = sum((float(e.prior) for e in node.order), 0.0)

    def forget(self, path: list[tuple[Node, Edge]]) -> None:
        self.waiting = [old for old in self.waiting if old is not path]
        self.collided = False

    def back_up(self, path: list[tuple[Node, Edge]]) -> None:
        value = path[-1][1].child.value
        for _, edge in path:
            edge.visits += 1
            edge.value = [a + b for a, b in zip(edge.value, value, strict=True)]
        self.visits += 1
        self.value = [a + b for a, b in zip(self.value, value, strict=True)]

    def pending(self, edge: Edge) -> int:
        return sum(edge is passed for path in self.waiting for _, passed in path)

    def walk(self) -> list[tuple[Node, Edge]]:
        path, node = [], self.root
        visits, mean = self.visits + len(self.waiting), self.value[self.root.to_play] / self.visits
        while True:
            edge = self.patient_select(node, visits, mean)
            path.append((node, edge))
            if edge.child is None or edge.child.terminal:
                return path
            node = edge.child
            visits, mean = edge.visits + self.pending(edge), edge.value[node.to_play] / edge.visits

    def patient_select(self, node: Node, visits: int, mean: float) -> Edge:
        s = self.settings
        scale = (math.log((1 + visits + s.c_puct_base) / s.c_puct_base) + s.c_puct) * math.sqrt(visits)
        unvisited = mean - s.fpu_reduction * math.sqrt(node.visited_prior)
        best, best_score = None, -math.inf
        for edge in node.edges:
            waits = self.pending(edge)
            n = edge.visits + waits
            q = (edge.value[node.to_play] - s.virtual_loss * waits) / n if n else unvisited
            score = q + scale * float(edge.prior) / (1 + n)
            if score > best_score:
                best, best_score = edge, score
        return best


def rooted(name: str, trees: int, rules, rng: np.random.Generator) -> tuple[Forest, list[PatientTwin]]:
    """Return a forest and one twin per tree, with their roots expanded."""
    game = GAMES[name]
    forest, evaluator = Forest(game, trees, rules, make_cache(game, rules)), HashEvaluator(game, game.num_players)
    positions = [random_position(game, rng, int(rng.integers(0, game.max_moves // 2))) for _ in range(trees)]
    keys = rng.integers(0, 1 << 63, trees, np.uint64)
    set_all_roots(forest, positions, keys)
    rows = forest.ask()
    assert forest._trees["pending"].tolist() == [1] * trees
    forest.tell(rows.ids, *evaluator.batch(rows.observations))
    twins = [PatientTwin(game, rules, evaluator) for _ in range(trees)]
    for twin, (state, ply), key in zip(twins, positions, keys, strict=True):
        twin.set_roots(state, int(key), ply)
    return forest, twins


def path_of(forest: Forest, leaf: int) -> tuple[int, ...]:
    """Return the moves from the root to a waiting leaf."""
    leaf, path = forest._pending.leaves[leaf], ()
    node, edge = int(leaf["parent"]), int(leaf["edge"])
    while edge != NONE:
        path = (int(forest._legal[edge]["action"]), *path)
        node, edge = int(forest._nodes[node]["parent"]), int(forest._nodes[node]["parent_edge"])
    return path


rules_of_many = st.fixed_dictionaries({
    "simulations": st.integers(1, 60),
    "leaves": st.sampled_from([1, 2, 3, 8, 40]),
    "virtual_loss": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    "c_puct": st.sampled_from([0.0, 1.25, 4.0]),
    "fpu_reduction": st.sampled_from([-0.5, 0.2, 1.0]),
    "noise_fraction": st.sampled_from([0.0, 0.25]),
    "max_moves": st.sampled_from([0, 30]),
})  # fmt: skip


@pytest.mark.parametrize("name", ["connect_four", "hex3", "hex4", "ring"])
@settings(deadline=None, derandomize=True, database=None, max_examples=15)
@given(rules_of_many, st.sampled_from([0.0, 0.3]), st.integers(0, 2**32 - 1))
def test_virtual_loss_equals_its_twin(name, rules, drops, seed):
    rng = np.random.default_rng(seed)
    forest, twins = rooted(name, 2, search_settings(**rules), rng)
    evaluator = HashEvaluator(forest.game, forest.game.num_players)
    leaves = forest.settings.leaves
    open_rows: dict[int, tuple] = {}
    while True:
        rows = forest.ask()
        for t, twin in enumerate(twins):
            mine = [i for i in rows.ids.tolist() if i // leaves == t]
            paths = twin.ask()
            assert [path_of(forest, i) for i in mine] == [tuple(e.action for _, e in path) for path in paths]
            open_rows |= {i: (twin, path) for i, path in zip(mine, paths, strict=True)}
        if not open_rows:
            break
        chosen = rng.permutation(sorted(open_rows))[: rng.integers(1, len(open_rows) + 1)].astype(np.int32)
        dropped = rng.random(len(chosen)) < drops
        states = forest.states_of(chosen[~dropped])
        seen = [observation(forest.game, states[i : i + 1]) for i in range(len(states))]
        forest.tell(chosen[~dropped], *evaluator.batch(np.array(seen)))
        forest.drop(chosen[dropped])
        for i in [*chosen[~dropped].tolist(), *chosen[dropped].tolist()]:
            twin, path = open_rows.pop(i)
            (twin.drop if i in chosen[dropped] else twin.tell)(path)
    assert [forest_tree(forest, t) for t in range(2)] == [naive_tree(twin) for twin in twins]
    assert (forest._trees["simulations"] == rules["simulations"]).all()


@pytest.mark.parametrize("cache", [0, 4, 1000])
@pytest.mark.parametrize("name", ["connect_four", "hex5", "ring"])
def test_waiting_leaves_are_distinct(name, cache):
    forest, _ = rooted(name, 3, search_settings(simulations=120, leaves=16, cache=cache), np.random.default_rng(8))
    evaluator = HashEvaluator(forest.game, forest.game.num_players)
    while len((rows := forest.ask()).ids):
        waiting = np.flatnonzero(forest._pending.leaves["state"]).tolist()
        assert len({(i // 16, path_of(forest, i)) for i in waiting}) == len(waiting) == forest._trees["pending"].sum()
        assert forest._edges["pending"][forest._pending.leaves["edge"][waiting]].tolist() == [1] * len(waiting)
        forest.tell(rows.ids, *evaluator.batch(rows.observations))
    assert (forest._trees["simulations"] == 120).all()


@pytest.mark.parametrize("name", ["connect_four", "hex5"])
@pytest.mark.parametrize("simulations", [1, 2, 7, 30])
def test_all_simulations_asked_at_once_are_distinct(name, simulations):
    # The failure this guards against: all leaves were the root, and the visits came out uniform.
    rules = search_settings(simulations=simulations, leaves=32)
    forest, _ = rooted(name, 2, rules, np.random.default_rng(simulations))
    evaluator = HashEvaluator(forest.game, 2)
    rows = forest.ask()
    roots = [forest._states[t * forest.capacity.nodes].tobytes() for t in range(2)]
    asked = [(i // 32, state.tobytes()) for i, state in zip(rows.ids.tolist(), rows.states(), strict=True)]
    assert len(set(asked)) == len(asked)
    assert all(state != roots[t] for t, state in asked)
    assert simulations > 2 or len(asked) == 2 * simulations
    forest.tell(rows.ids, *evaluator.batch(rows.observations))
    run(forest, evaluator)
    for t in range(2):
        tree = forest_tree(forest, t)
        assert tree[()][0] == simulations
        visited = [value for path, value in tree.items() if path and value[1] > 0]
        ended = sum(value[1] - 1 for value in visited if value[4])
        assert len(visited) + ended == simulations  # every simulation made a node or ended the game once more


@pytest.mark.parametrize("name", ["connect_four", "hex3", "ring"])
@pytest.mark.parametrize("cache", [0, 4, 300])
@pytest.mark.parametrize("seed", range(3))
def test_untidy_answers_keep_the_count(name, cache, seed):
    rng = np.random.default_rng(seed)
    forest, _ = rooted(name, 4, search_settings(simulations=70, leaves=5, cache=cache), rng)
    run_untidily(forest, HashEvaluator(forest.game, forest.game.num_players), rng, 0.3)
    assert_within(forest)
    assert (forest._trees["simulations"] == 70).all()
    for t in range(4):
        tree = forest_tree(forest, t)
        assert sum(value[1] for path, value in tree.items() if len(path) == 1) == 70
