"""What the tests of the search share: evaluators, ways to drive a forest, and its trees as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from grove.mcts import NONE, ROOT, Forest, SearchSettings, make_cache
from grove.workers.selfplay.row_kernels import hash_evaluate
from tests.support.naive import NaiveSearch
from tests.support.positions import ALL, legal_actions, mover, played, result


@dataclass
class HashEvaluator:
    """The hash test evaluator with settings that make ties likely: `scale` 0 flattens priors, `coarse` rounds
    values."""

    game: Any
    width: int = 0
    """Values per row, 1 or P; 0 = P."""
    scale: float = 1.0
    coarse: bool = False
    rows: int = 0
    """Rows evaluated so far."""

    def batch(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = len(observations)
        self.rows += n
        logits = np.zeros((n, self.game.num_actions), np.float32)
        values = np.zeros((n, self.width or self.game.num_players), np.float32)
        if n:
            hash_evaluate(np.ascontiguousarray(observations).reshape(n, -1).view(np.uint8), logits, values)
        logits *= np.float32(self.scale)
        return logits, np.round(values * 2) / np.float32(2) if self.coarse else values

    def __call__(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, values = self.batch(row[None])
        return logits[0], values[0]


def ragged(logits: np.ndarray, legal: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the legal ones of dense logits [B, A], flat."""
    offsets, actions = legal
    return logits[np.repeat(np.arange(len(logits)), np.diff(offsets)), actions]


# -- driving a forest ------------------------------------------------------------------------------------------------


def search_settings(**changes) -> SearchSettings:
    """Return settings without noise and with 100 simulations but for `changes`."""
    return SearchSettings(**{"noise_fraction": 0.0, "simulations": 100} | changes)


def roots_of(count: int, **fields) -> np.ndarray:
    """Return ROOT records of trees 0..count-1; give `key`, `ply`, `target`, and `action` where it is known."""
    roots = np.zeros(count, ROOT)
    roots["tree"], roots["action"] = np.arange(count), NONE
    for name, value in fields.items():
        roots[name] = value
    return roots


def set_all_roots(forest: Forest, positions: list[tuple[np.ndarray, int]], keys: np.ndarray) -> None:
    """Plant position i (state [1], ply) in tree i."""
    plies = [ply for _, ply in positions]
    roots = roots_of(len(positions), key=keys, ply=plies, target=forest.settings.simulations)
    forest.set_roots(roots, np.concatenate([state for state, _ in positions]))


def rooted(name: Any, rules: SearchSettings, positions: list[tuple[np.ndarray, int]], keys: np.ndarray) -> Forest:
    """Return a forest, with a cache where `rules` want one, that holds the positions; `name` may be a game itself."""
    game = ALL[name] if isinstance(name, str) else name
    forest = Forest(game, len(positions), rules, make_cache(game, rules))
    set_all_roots(forest, positions, keys)
    return forest


def searched(name: str, rules: SearchSettings, positions: list[tuple[np.ndarray, int]], keys: np.ndarray) -> Forest:
    """Return a forest that has searched the positions."""
    forest = rooted(name, rules, positions, keys)
    run(forest, HashEvaluator(forest.game))
    return forest


def run(forest: Forest, evaluator: HashEvaluator, dense: bool = True, version: str = "", asks: int = -1) -> None:
    """Answer everything the forest asks until it asks nothing, or for so many `asks`."""
    while asks != 0 and len((rows := forest.ask()).ids):
        logits, values = evaluator.batch(rows.observations)
        forest.tell(rows.ids, logits if dense else ragged(logits, rows.legal()), values, version)
        assert_within(forest)
        asks -= 1


def run_untidily(forest: Forest, evaluator: HashEvaluator, rng: np.random.Generator, drops: float) -> None:
    """Answer in random subsets and orders, asking in between; rows are dropped with probability `drops`."""
    open_rows: dict[int, np.ndarray] = {}
    while True:
        rows = forest.ask()
        for i, row in zip(rows.ids.tolist(), rows.observations.copy(), strict=True):
            assert i not in open_rows
            open_rows[i] = row
        if not open_rows:
            return
        assert sorted(open_rows) == forest.waiting().tolist()
        chosen = rng.permutation(list(open_rows))[: rng.integers(0, len(open_rows) + 1)].astype(np.int32)
        dropped = rng.random(len(chosen)) < drops
        forest.drop(chosen[dropped])
        told = chosen[~dropped]
        forest.tell(told, *evaluator.batch(np.array([open_rows[i] for i in told.tolist()])))
        assert_within(forest)
        for i in chosen.tolist():
            del open_rows[i]


def visits_of(forest: Forest, position: int) -> list[tuple[int, int]]:
    """Return the visited moves of a position and their visits, by move."""
    offsets, pairs = forest.root_visits(np.array([position], np.int32))
    return [(int(action), int(visits)) for action, visits in pairs[: offsets[1]]]


def most_visited(forest: Forest, count: int) -> list[int]:
    """Return the moves that the first `count` positions play."""
    which = np.arange(count, dtype=np.int32)
    return forest.choose(which, forest.root_visits(which)).tolist()


# -- what stands in a forest -----------------------------------------------------------------------------------------

Tree = dict[tuple[int, ...], tuple]
"""Actions from the root -> (prior, visits, value sums, own value, terminal) of the edge and node they lead to."""


def assert_within(forest: Forest) -> None:
    """Assert that no tree uses more of its slices than it has, and that counters are sane."""
    trees, settings = forest.trees, forest.settings
    assert (trees["nodes"] <= forest.capacity.nodes).all()
    assert (trees["edges"] <= forest.capacity.edges).all()
    assert ((trees["pending"] >= 0) & (trees["pending"] <= settings.leaves)).all()
    assert (trees["simulations"] + trees["pending"] <= np.maximum(trees["target"], trees["simulations"]) + 1).all()


def done(forest: Forest) -> list[int]:
    """Return the simulations made in every tree."""
    return forest.trees["simulations"].tolist()


def pending(forest: Forest) -> list[int]:
    """Return the leaves of every tree that wait, merged ones included."""
    return forest.trees["pending"].tolist()


def everything(forest: Forest) -> list[bytes]:
    """Return all that a forest remembers, as bytes."""
    arrays = (forest.trees, forest.nodes, forest.edges, forest.legal, forest.states, forest.pending.leaves)
    return [a.tobytes() for a in arrays]


def world_states(forest: Forest, position: int) -> list[bytes]:
    """Return the root states of the trees of a position."""
    worlds, nodes = forest.settings.worlds, forest.capacity.nodes
    return [forest.states[t * nodes].tobytes() for t in range(position * worlds, (position + 1) * worlds)]


def path_of(forest: Forest, row: int) -> tuple[int, ...]:
    """Return the moves from the root to a waiting leaf."""
    leaf, path = forest.pending.leaves[row], ()
    node, edge = int(leaf["parent"]), int(leaf["edge"])
    while edge != NONE:
        path = (int(forest.legal[edge]["action"]), *path)
        node, edge = int(forest.nodes[node]["parent"]), int(forest.nodes[node]["parent_edge"])
    return path


def all_trees(forest: Forest) -> list[Tree]:
    return [forest_tree(forest, t) for t in range(forest.capacity.trees)]


def forest_tree(forest: Forest, t: int) -> Tree:
    """Return tree `t` of the pools, every edge of it, visited or not."""
    nodes, edges, tree = forest.nodes, forest.edges, forest.trees[t]
    out: Tree = {(): (int(tree["simulations"]), tuple(tree["value"].tolist()))}
    stack = [((), t * forest.capacity.nodes)]
    while stack:
        path, n = stack.pop()
        node = nodes[n]
        block = slice(node["first_edge"], node["first_edge"] + node["edges"])
        moves = forest.legal[block]
        assert len(set(moves["action"].tolist())) == len(moves)
        for i, (move, edge) in enumerate(zip(moves, edges[block], strict=True)):
            here = (*path, int(move["action"]))
            if i >= node["visited"]:
                out[here] = float(move["prior"]), 0
                continue
            assert edge["prior"] == move["prior"]
            assert tree["pending"] > 0 or (edge["pending"] == 0 and edge["visits"] > 0)
            if edge["child"] != NONE:
                child = nodes[edge["child"]]
                assert (child["parent"], child["parent_edge"]) == (n, node["first_edge"] + i)
                out[here] = _edge_value(edge, child)
                stack.append((here, int(edge["child"])))
    return out


def _edge_value(edge: np.void, child: np.void) -> tuple:
    own, sums = tuple(child["value"].tolist()), tuple(edge["value"].tolist())
    return float(edge["prior"]), int(edge["visits"]), sums, own, bool(child["terminal"])


def naive_tree(search: NaiveSearch) -> Tree:
    """Return the slow twin's tree in the same form."""
    out: Tree = {(): (search.visits - 1, tuple(search.value))}
    stack = [((), search.root)]
    while stack:
        path, node = stack.pop()
        for edge in node.edges:
            here = (*path, edge.action)
            out[here] = (float(edge.prior), 0)
            if edge.child is not None:
                child = edge.child
                out[here] = (float(edge.prior), edge.visits, tuple(edge.value), tuple(child.value), child.terminal)
                stack.append((here, edge.child))
    return out


# -- exact play ------------------------------------------------------------------------------------------------------


class Solver:
    """Exact values of two-player games by full search to a depth, remembered by state."""

    def __init__(self, game) -> None:
        self.game = game
        self.known: dict[tuple[bytes, int], int] = {}

    def value(self, state: np.ndarray, depth: int) -> int:
        """Return 1 if the mover can force a win within `depth` plies, -1 if the other seat can, else 0."""
        key = (state.tobytes(), depth)
        if key not in self.known:
            utility = result(self.game, state)
            if utility is not None:
                self.known[key] = int(utility[mover(self.game, state)])
            else:
                self.known[key] = max(self.after(state, depth).values()) if depth else 0
        return self.known[key]

    def after(self, state: np.ndarray, depth: int) -> dict[int, int]:
        """Return every legal action's value to the mover."""
        return {a: -self.value(played(self.game, state, a), depth - 1) for a in legal_actions(self.game, state)}

    def best(self, state: np.ndarray, depth: int) -> list[int]:
        """Return the actions that keep the value of `state`."""
        values = self.after(state, depth)
        return [a for a, value in values.items() if value == self.value(state, depth)]
