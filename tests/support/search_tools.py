"""What the tests of the search share: positions, evaluators, ways to drive a forest, and trees as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from grove.game import load_game
from grove.game.connect_four import ConnectFour
from grove.game.hex import Hex
from grove.mcts import NONE, ROOT, Forest, SearchSettings
from grove.workers.selfplay.row_kernels import hash_evaluate
from tests.support.naive import NaiveSearch, Node, legal_actions
from tests.support.three_player import ThreePlayer

GAMES = {
    **{"connect_four": ConnectFour(), "ring": ThreePlayer(), "stairs": load_game("tests.support.one_player:Stairs")},
    **{f"hex{n}": Hex(n) for n in (2, 3, 4, 5, 7)},
}
"""Games by short name. Ring has three players who may move twice in a row, and its utilities do not sum to zero; stairs
has one player and is plain Python."""


# -- positions -------------------------------------------------------------------------------------------------------


def start(game, seed: int = 0) -> np.ndarray:
    states = np.zeros(1, game.state_dtype)
    game.initial(np.array([seed], np.uint64), states)
    return states


def played(game, state: np.ndarray, action: int) -> np.ndarray:
    """Return a copy of `state` after `action`."""
    after = state.copy()
    game.step(after, np.array([action], np.int32))
    return after


def result(game, state: np.ndarray) -> np.ndarray | None:
    """Return the utilities float64 [P] of a finished game, None while it goes on."""
    done, utility = np.zeros(1, bool), np.zeros((1, game.num_players))
    game.outcome(state, done, utility)
    return utility[0] if done[0] else None


def mover(game, state: np.ndarray) -> int:
    out = np.zeros(1, np.int8)
    game.to_play(state, out)
    return int(out[0])


def observation(game, state: np.ndarray) -> np.ndarray:
    out = np.zeros((1, *game.observation_shape), game.observation_dtype)
    game.observe(state, out)
    return out[0]


def line(game, moves: str) -> np.ndarray:
    """Return the position after `moves`, separated by spaces."""
    state = start(game)
    for text in moves.split():
        assert result(game, state) is None
        state = played(game, state, game.parse(text))
    return state


def random_position(game, rng: np.random.Generator, plies: int) -> tuple[np.ndarray, int]:
    """Return an unfinished position and its ply: up to `plies` random moves from a random start."""
    state, ply = start(game, int(rng.integers(0, 1 << 62))), 0
    while ply < plies:
        after = played(game, state, int(rng.choice(legal_actions(game, state))))
        if result(game, after) is not None:
            break
        state, ply = after, ply + 1
    return state, ply


# -- evaluators ------------------------------------------------------------------------------------------------------


@dataclass
class HashEvaluator:
    """The hash test evaluator with settings that make ties likely: `scale` 0 flattens priors, `coarse` rounds
    values."""

    game: Any
    width: int
    """Values per row: 1 or P."""
    scale: float = 1.0
    coarse: bool = False
    rows: int = 0
    """Rows evaluated so far."""

    def batch(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = len(observations)
        self.rows += n
        logits = np.zeros((n, self.game.num_actions), np.float32)
        values = np.zeros((n, self.width), np.float32)
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


def run(forest: Forest, evaluator: HashEvaluator, dense: bool = True, version: str = "") -> int:
    """Answer everything the forest asks until it asks nothing; return the number of asks."""
    asks = 0
    while len((rows := forest.ask()).ids):
        logits, values = evaluator.batch(rows.observations)
        forest.tell(rows.ids, logits if dense else ragged(logits, rows.legal()), values, version)
        assert_within(forest)
        asks += 1
    return asks


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


def assert_within(forest: Forest) -> None:
    """Assert that no tree uses more of its slices than it has, and that counters are sane."""
    trees, settings = forest._trees, forest.settings
    assert (trees["nodes"] <= forest.capacity.nodes).all()
    assert (trees["edges"] <= forest.capacity.edges).all()
    assert ((trees["pending"] >= 0) & (trees["pending"] <= settings.leaves)).all()
    assert (trees["simulations"] + trees["pending"] <= np.maximum(trees["target"], trees["simulations"]) + 1).all()


# -- trees as plain values -------------------------------------------------------------------------------------------

Tree = dict[tuple[int, ...], tuple]
"""Actions from the root -> (prior, visits, value sums, own value, terminal) of the edge and node they lead to."""


def forest_tree(forest: Forest, t: int) -> Tree:
    """Return tree `t` of the pools, every edge of it, visited or not."""
    nodes, edges, tree = forest._nodes, forest._edges, forest._trees[t]
    out: Tree = {(): (int(tree["simulations"]), tuple(tree["value"].tolist()))}
    stack = [((), t * forest.capacity.nodes)]
    while stack:
        path, n = stack.pop()
        node = nodes[n]
        block = slice(node["first_edge"], node["first_edge"] + node["edges"])
        moves = forest._legal[block]
        assert len(set(moves["action"].tolist())) == len(moves)
        for i, (move, edge) in enumerate(zip(moves, edges[block], strict=True)):
            here = (*path, int(move["action"]))
            if i >= node["visited"]:
                out[here] = float(move["prior"]), 0
                continue
            assert edge["pending"] == 0
            assert edge["visits"] > 0
            assert edge["prior"] == move["prior"]
            out[here] = _edge_value(edge, nodes)
            if edge["child"] != NONE:
                child = nodes[edge["child"]]
                assert child["parent"] == n
                assert child["parent_edge"] == node["first_edge"] + i
                stack.append((here, int(edge["child"])))
    return out


def _edge_value(edge: np.void, nodes: np.ndarray) -> tuple:
    child = nodes[edge["child"]]
    own, sums = tuple(child["value"].tolist()), tuple(edge["value"].tolist())
    return float(edge["prior"]), int(edge["visits"]), sums, own, bool(child["terminal"])


def naive_tree(search: NaiveSearch) -> Tree:
    """Return the slow twin's tree in the same form."""
    out: Tree = {(): (search.visits - 1, tuple(search.value))}
    stack: list[tuple[tuple[int, ...], Node]] = [((), search.root)]
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


def search_settings(**changes) -> SearchSettings:
    """Return settings without noise and with 100 simulations but for `changes`."""
    return SearchSettings(**{"noise_fraction": 0.0, "simulations": 100} | changes)


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
            self.known[key] = self._search(state, depth)
        return self.known[key]

    def _search(self, state: np.ndarray, depth: int) -> int:
        utility = result(self.game, state)
        if utility is not None:
            return int(utility[mover(self.game, state)])
        if depth == 0:
            return 0
        return max(-self.value(played(self.game, state, a), depth - 1) for a in legal_actions(self.game, state))

    def best(self, state: np.ndarray, depth: int) -> list[int]:
        """Return the actions that keep the value of `state`."""
        top = self.value(state, depth)
        return [
            a for a in legal_actions(self.game, state) if -self.value(played(self.game, state, a), depth - 1) == top
        ]
