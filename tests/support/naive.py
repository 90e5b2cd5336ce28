"""The search again, written the obvious way: Python objects, one tree and one position at a time.

The Forest must equal it visit for visit, so it repeats the formulas, not the data structure. Game rules come from the
same Game, evaluations from any function of one observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from grove.common.rng import derive, gamma
from grove.mcts.settings import SearchSettings
from tests.support.positions import legal_actions, mover, observation, played, result

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Observation -> logits float32 [A], seat-relative values float32 [P] or, in a zero-sum game, [1]."""


@dataclass(eq=False)
class Edge:
    action: int
    prior: np.float32
    visits: int = 0
    value: list[float] = field(default_factory=list)
    child: Node | None = None


@dataclass
class Node:
    state: np.ndarray
    ply: int
    to_play: int = 0
    terminal: bool = False
    value: list[float] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    order: list[Edge] = field(default_factory=list)  # visited edges by first visit

    @property
    def visited_prior(self) -> float:
        return add_up(float(edge.prior) for edge in self.order)


Path = list[tuple[Node, Edge]]
"""From the root to a leaf."""


class NaiveSearch:
    """One tree over `game`, with up to `leaves` leaves waiting for their evaluation.

    A waiting visit counts as a visit that lost `virtual_loss`.
    """

    def __init__(self, game, settings: SearchSettings, evaluate: Evaluate) -> None:
        self.game, self.settings, self.evaluate = game, settings, evaluate
        self.max_ply = min(settings.max_moves or game.max_moves, game.max_moves)
        self.target = settings.simulations

    def set_roots(self, state: np.ndarray, key: int, ply: int) -> None:
        self.root = self.expand(Node(state.copy(), ply))
        self.visits, self.value = 1, list(self.root.value)
        self.waiting: list[Path] = []
        self.collided = False
        self.add_noise(key)

    def advance(self, action: int, key: int) -> None:
        """Keep the subtree of `action` where there is one, otherwise start anew."""
        edge = next((e for e in self.root.edges if e.action == action), None)
        if edge is not None and edge.child is not None and not edge.child.terminal:
            self.root, self.visits, self.value = edge.child, edge.visits, list(edge.value)
            self.add_noise(key)
        else:
            self.set_roots(played(self.game, self.root.state, action), key, self.root.ply + 1)

    def run(self) -> None:
        while self.visits - 1 < self.target:
            for path in self.ask():
                self.tell(path)

    def ask(self) -> list[Path]:
        """Return the new leaves that wait."""
        asked = []
        while not self.collided and len(self.waiting) < self.settings.leaves:
            if self.visits - 1 + len(self.waiting) >= self.target:
                break
            path = self.walk()
            node, edge = path[-1]
            if edge.child is not None:  # an end of the game, seen before
                self.back_up(path)
            elif any(old[-1][1] is edge for old in self.waiting):
                self.collided = True
            else:
                node.order.append(edge)
                edge.value = [0.0] * self.game.num_players
                child = self.child_of(node, edge.action)
                if child.terminal:
                    edge.child = child
                    self.back_up(path)
                else:
                    self.waiting.append(path)
                    asked.append(path)
        return asked

    def tell(self, path: Path) -> None:
        self.forget(path)
        node, edge = path[-1]
        edge.child = self.expand(self.child_of(node, edge.action))
        self.back_up(path)

    def drop(self, path: Path) -> None:
        self.forget(path)
        node, edge = path[-1]
        node.order = [e for e in node.order if e is not edge]
        edge.value = []

    def forget(self, path: Path) -> None:
        self.waiting = [old for old in self.waiting if old is not path]
        self.collided = False

    def back_up(self, path: Path) -> None:
        value = path[-1][1].child.value
        for _, edge in path:
            edge.visits += 1
            edge.value = [a + b for a, b in zip(edge.value, value, strict=True)]
        self.visits += 1
        self.value = [a + b for a, b in zip(self.value, value, strict=True)]

    def pending(self, edge: Edge) -> int:
        return sum(edge is passed for path in self.waiting for _, passed in path)

    def walk(self) -> Path:
        path, node = [], self.root
        visits, mean = self.visits + len(self.waiting), self.value[node.to_play] / self.visits
        while True:
            edge = self.select(node, visits, mean)
            path.append((node, edge))
            if edge.child is None or edge.child.terminal:
                return path
            node = edge.child
            visits, mean = edge.visits + self.pending(edge), edge.value[node.to_play] / edge.visits

    def select(self, node: Node, visits: int, mean: float) -> Edge:
        s = self.settings
        scale = (math.log((1 + visits + s.c_puct_base) / s.c_puct_base) + s.c_puct) * math.sqrt(visits)
        unvisited = mean - s.fpu_reduction * math.sqrt(node.visited_prior)
        new = [edge for edge in node.edges if edge not in node.order]
        leader = max(new, key=lambda edge: edge.prior, default=None)  # scores of others may be rounded to its own
        best, best_score = None, -math.inf
        for edge in node.edges:  # ascending actions: the first of equals stays
            waits = self.pending(edge)
            n = edge.visits + waits
            if not n and edge is not leader:
                continue
            q = (edge.value[node.to_play] - s.virtual_loss * waits) / n if n else unvisited
            score = q + scale * float(edge.prior) / (1 + n)
            if score > best_score:
                best, best_score = edge, score
        return best

    def child_of(self, node: Node, action: int) -> Node:
        """Return the node behind an edge, not evaluated yet."""
        state, ply = played(self.game, node.state, action), node.ply + 1
        utility = result(self.game, state)
        if utility is None and ply >= self.max_ply:
            utility = [self.settings.timeout_utility] * self.game.num_players
        return Node(state, ply, terminal=utility is not None, value=utility or [])

    def expand(self, node: Node) -> Node:
        game = self.game
        logits, values = self.evaluate(observation(game, node.state))
        actions, node.to_play = legal_actions(game, node.state), mover(game, node.state)
        top = max(float(logits[a]) for a in actions)
        total = add_up(math.exp(float(logits[a]) - top) for a in actions)
        node.edges = [Edge(a, np.float32(math.exp(float(logits[a]) - top) / total)) for a in actions]
        node.value = absolute(values, node.to_play, game.num_players)
        return node

    def add_noise(self, key: int) -> None:
        s, edges = self.settings, self.root.edges
        if s.noise_fraction == 0 or len(edges) < 2:
            return
        stream = np.uint64(derive(np.uint64(derive(np.uint64(key), self.root.ply)), 0))
        alpha = s.noise_alpha or 10.0 / len(edges)
        draws = [gamma(np.uint64(derive(stream, e.action)), alpha) for e in edges]
        total = add_up(draws)
        for edge, draw in zip(edges, draws, strict=True):
            share = draw / total if total > 0 else 1.0 / len(edges)
            edge.prior = np.float32((1.0 - s.noise_fraction) * float(edge.prior) + s.noise_fraction * share)

    def root_visits(self) -> list[tuple[int, int]]:
        return [(e.action, e.visits) for e in self.root.edges if e.visits]


class NaiveDecision:
    """A decision: one tree, or where the game hides something one for each world drawn; all visits are added up."""

    def __init__(self, game, settings: SearchSettings, evaluate: Evaluate) -> None:
        self.game, self.settings = game, settings
        self.searches = [NaiveSearch(game, settings, evaluate) for _ in range(settings.worlds)]
        if settings.simulations_per == "decision":  # evaluations are shared, and every root takes one
            for w, search in enumerate(self.searches):
                search.target = len(range(w, settings.simulations + 1, settings.worlds)) - 1

    def set_roots(self, state: np.ndarray, key: int, ply: int) -> None:
        if not self.game.hidden_information:
            self.searches[0].set_roots(state, key, ply)
            return
        at_ply = np.uint64(derive(np.uint64(key), ply))
        seeds, keys = np.uint64(derive(at_ply, 2)), np.uint64(derive(at_ply, 3))
        for w, search in enumerate(self.searches):
            world = np.zeros(1, self.game.state_dtype)
            self.game.determinize(state.copy(), np.array([derive(seeds, w)], np.uint64), world)
            search.set_roots(world, derive(keys, w) if w else key, ply)

    def run(self) -> None:
        for search in self.searches:
            search.run()

    def root_visits(self) -> list[tuple[int, int]]:
        visits: dict[int, int] = {}
        for search in self.searches:
            for action, count in search.root_visits():
                visits[action] = visits.get(action, 0) + count
        return sorted(visits.items())

    def root_value(self) -> list[float]:
        value = [0.0] * self.game.num_players
        for search in self.searches:
            value = [a + total / search.visits for a, total in zip(value, search.value, strict=True)]
        return [total / self.settings.worlds for total in value]


def absolute(values: np.ndarray, seat: int, players: int) -> list[float]:
    """Return seat-relative values, or the one value of a zero-sum game, by absolute seats."""
    relative = [float(v) for v in values]
    if len(relative) == 1 and players == 2:
        relative.append(-relative[0])
    return [relative[(p - seat) % players] for p in range(players)]


def add_up(numbers: Iterable[float]) -> float:
    """Return the sum, rounded after every addition: the built-in sum of later Pythons is more exact than the forest."""
    total = 0.0
    for number in numbers:
        total += number
    return total
