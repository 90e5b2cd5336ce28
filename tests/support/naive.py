"""The search again, written the obvious way: Python objects, one tree and one position at a time.

The Forest must equal it visit for visit, so it repeats the formulas, not the data structure. Game rules come from the
same Game, evaluations from any function of one observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from grove.common.rng import derive, gamma
from grove.mcts.settings import SearchSettings

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Observation -> logits float32 [A], seat-relative values float32 [P] or [1]."""


@dataclass
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
    visited_prior: float = 0.0
    order: list[Edge] = field(default_factory=list)  # edges by first visit


class NaiveSearch:
    """One tree over `game`."""

    def __init__(self, game, settings: SearchSettings, evaluate: Evaluate) -> None:
        self.game, self.settings, self.evaluate = game, settings, evaluate
        self.max_ply = min(settings.max_moves or game.max_moves, game.max_moves)
        self.evaluated: list[bytes] = []

    def set_roots(self, state: np.ndarray, key: int, ply: int) -> None:
        self.root = self.expand(state.copy(), ply)
        self.visits, self.value = 1, list(self.root.value)
        self.add_noise(key)

    def advance(self, action: int, key: int) -> None:
        """Keep the subtree of `action` where there is one, otherwise start anew."""
        edge = next((e for e in self.root.edges if e.action == action), None)
        if edge is not None and edge.child is not None and not edge.child.terminal:
            self.root, self.visits, self.value = edge.child, edge.visits, list(edge.value)
            self.add_noise(key)
        else:
            state = self.root.state.copy()
            self.game.step(state, np.array([action], np.int32))
            self.set_roots(state, key, self.root.ply + 1)

    def run(self, simulations: int | None = None) -> None:
        while self.visits - 1 < (self.settings.simulations if simulations is None else simulations):
            self.simulate()

    def simulate(self) -> None:
        node, path = self.root, []
        visits, total = self.visits, self.value
        while True:
            edge = self.select(node, visits, total)
            path.append(edge)
            if edge.visits == 0:
                node.visited_prior += float(edge.prior)
                node.order.append(edge)
                edge.value = [0.0] * self.game.num_players
                edge.child = self.make_child(node, edge.action)
                break
            if edge.child.terminal:
                break
            node, visits, total = edge.child, edge.visits, edge.value
        value = path[-1].child.value
        for edge in path:
            edge.visits += 1
            edge.value = [a + b for a, b in zip(edge.value, value, strict=True)]
        self.visits += 1
        self.value = [a + b for a, b in zip(self.value, value, strict=True)]

    def select(self, node: Node, visits: int, total: list[float]) -> Edge:
        s = self.settings
        scale = (math.log((1 + visits + s.c_puct_base) / s.c_puct_base) + s.c_puct) * math.sqrt(visits)
        unvisited = total[node.to_play] / visits - s.fpu_reduction * math.sqrt(node.visited_prior)
        best, best_score = None, -math.inf
        for edge in node.edges:  # ascending actions: the first of equals stays
            q = edge.value[node.to_play] / edge.visits if edge.visits else unvisited
            score = q + scale * float(edge.prior) / (1 + edge.visits)
            if score > best_score:
                best, best_score = edge, score
        return best

    def make_child(self, node: Node, action: int) -> Node:
        state = node.state.copy()
        self.game.step(state, np.array([action], np.int32))
        done, utility = np.zeros(1, bool), np.zeros((1, self.game.num_players))
        self.game.outcome(state, done, utility)
        if done[0]:
            return Node(state, node.ply + 1, terminal=True, value=list(utility[0]))
        if node.ply + 1 >= self.max_ply:
            return Node(state, node.ply + 1, terminal=True, value=[self.settings.timeout_utility] * len(utility[0]))
        return self.expand(state, node.ply + 1)

    def expand(self, state: np.ndarray, ply: int) -> Node:
        game = self.game
        to_play = np.zeros(1, np.int8)
        game.to_play(state, to_play)
        observation = np.zeros((1, *game.observation_shape), game.observation_dtype)
        game.observe(state, observation)
        self.evaluated.append(observation.tobytes())
        logits, values = self.evaluate(observation[0])
        actions = legal_actions(game, state)
        top = max(float(logits[a]) for a in actions)
        total = 0.0
        for a in actions:
            total += math.exp(float(logits[a]) - top)
        priors = [np.float32(math.exp(float(logits[a]) - top) / total) for a in actions]
        node = Node(state, ply, int(to_play[0]))
        node.value = absolute(values, node.to_play, game.num_players)
        node.edges = [Edge(a, p) for a, p in zip(actions, priors, strict=True)]
        return node

    def add_noise(self, key: int) -> None:
        s, edges = self.settings, self.root.edges
        if s.noise_fraction == 0 or len(edges) < 2:
            return
        stream = np.uint64(derive(np.uint64(derive(np.uint64(key), self.root.ply)), 0))
        alpha = s.noise_alpha or 10.0 / len(edges)
        draws = [gamma(np.uint64(derive(stream, e.action)), alpha) for e in edges]
        total = 0.0
        for draw in draws:
            total += draw
        for edge, draw in zip(edges, draws, strict=True):
            share = draw / total if total > 0 else 1.0 / len(edges)
            edge.prior = np.float32((1.0 - s.noise_fraction) * float(edge.prior) + s.noise_fraction * share)
        self.root.visited_prior = 0.0
        for edge in self.root.order:
            self.root.visited_prior += float(edge.prior)

    def root_visits(self) -> list[tuple[int, int]]:
        return [(e.action, e.visits) for e in self.root.edges if e.visits]


class NaiveWorlds:
    """A decision of a game with hidden information: one tree for each world drawn, all visits added up."""

    def __init__(self, game, settings: SearchSettings, evaluate: Evaluate) -> None:
        self.game, self.settings = game, settings
        self.searches = [NaiveSearch(game, settings, evaluate) for _ in range(settings.worlds)]

    def set_roots(self, state: np.ndarray, key: int, ply: int) -> None:
        at_ply = np.uint64(derive(np.uint64(key), ply))
        seeds, keys = np.uint64(derive(at_ply, 2)), np.uint64(derive(at_ply, 3))
        self.worlds = []
        for w, search in enumerate(self.searches):
            world = np.zeros(1, self.game.state_dtype)
            self.game.determinize(state.copy(), np.array([derive(seeds, w)], np.uint64), world)
            self.worlds.append(world)
            search.set_roots(world, derive(keys, w) if w else key, ply)

    def run(self) -> None:
        for search, simulations in zip(self.searches, self.simulations(), strict=True):
            search.run(simulations)

    def simulations(self) -> list[int]:
        """Return the simulations of every world."""
        total, worlds = self.settings.simulations, self.settings.worlds
        if self.settings.simulations_per == "world":
            return [total] * worlds
        evaluations = [0] * worlds
        for k in range(total + 1):
            evaluations[k % worlds] += 1
        return [n - 1 for n in evaluations]

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


def legal_actions(game, state: np.ndarray) -> list[int]:
    offsets, actions = np.zeros(2, np.int64), np.zeros(game.max_legal, np.int32)
    game.legal(state, offsets, actions)
    return [int(a) for a in actions[: offsets[1]]]


def absolute(values: np.ndarray, mover: int, players: int) -> list[float]:
    if len(values) == 1 and players == 2:
        out = [0.0, 0.0]
        out[mover], out[1 - mover] = float(values[0]), -float(values[0])
        return out
    out = [0.0] * players
    for p in range(players):
        out[(mover + p) % players] = float(values[p])
    return out
