"""Playing strength where the right move is known: forced wins with random playouts, and exact values as evaluator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from grove.workers.selfplay.evaluators import RolloutEvaluator
from tests.support.positions import GAMES, legal_actions, line, played, random_position, result
from tests.support.search_tools import Solver, most_visited, rooted, search_settings


class Tactic(NamedTuple):
    """A position with a forced move: the mover wins within 1 or 3 plies, or must stop a win in 2.

    No other move wins within eight plies, so that a search has no slower way to be right.
    """

    game: str
    plies: int
    moves: str
    answer: str

    def position(self) -> np.ndarray:
        return line(GAMES[self.game], self.moves)

    def answers(self) -> list[int]:
        return [GAMES[self.game].parse(text) for text in self.answer.split()]


TACTICS = [
    Tactic("connect_four", 1, "4 6 7 1 2 6 7 2 3 7 3 2 6 2 3 5 4", "2"),
    Tactic("connect_four", 1, "7 6 6 1 6 7 2 2 1 6 7 5 5 6 1 6 7 1 7 7 2 3 5 5", "4"),
    Tactic("connect_four", 2, "1 2 2 2 6 7 5 1 1 3 4 5 4 2 2 5 6 1 1 4 3 7", "3"),
    Tactic("connect_four", 2, "4 6 3 1 2 7 7 5 2 4 1 2 6 5 2 6 6 2 6 2 1 3 1", "1"),
    Tactic("connect_four", 3, "4 1 5 3 7 6 6 1 5 5", "4"),
    Tactic("connect_four", 3, "3 2 6 5 1 7 3 4 5 6 7 3 3 1", "2 4"),
    Tactic("hex4", 1, "c2 c1 c4 b1 b3 a2 b4", "d1"),
    Tactic("hex4", 1, "b4 b2 c3 d1 c1 a2 b1", "c2"),
    Tactic("hex4", 2, "c2 b2 c4 a2 d1 b4 a1", "c3"),
    Tactic("hex4", 2, "a1 b3 a3 d1 c3 a4 a2 d3", "c2"),
    Tactic("hex4", 3, "a2 b1 c2 a3 b4 d2 a1 b3", "c3"),
    Tactic("hex4", 3, "b2 d1 d4 c1 c2 d3 a4", "b1"),
    Tactic("hex5", 1, "d5 b2 e1 e4 a5 c3 c1 d4 b3 d1 a2 a3 b4 e2", "c2"),
    Tactic("hex5", 1, "c4 b1 e1 e2 d4 a3 b2 c3 e5 b3 e4 a2 d3 d5 c1", "d2"),
    Tactic("hex5", 2, "d5 b5 b3 c5 e5 a5 b1 e2 d3 a2 c2 e3 c4 a3", "d4"),
    Tactic("hex5", 2, "a5 a1 e4 b3 c3 a4 b2 e5 b1 c2 e2 e3 a3 d1", "e1"),
    Tactic("hex5", 3, "c3 e4 d5 a1 e1 a5 e5 b2 d2 d4 a3 a2", "c4 b5"),
    Tactic("hex5", 3, "a4 c4 c5 c3 e4 a5 e1 a1 c2 b2 d5 b5 b1 a3 d4", "e2 d3"),
]
BY_GAME = {name: [tactic for tactic in TACTICS if tactic.game == name] for name in ("connect_four", "hex4", "hex5")}


@pytest.mark.parametrize("tactic", TACTICS)
def test_tactics_are_what_they_claim(tactic):
    game, state = GAMES[tactic.game], tactic.position()
    solver = Solver(game)
    if tactic.plies == 2:
        lost = [a for a in legal_actions(game, state) if solver.value(played(game, state, a), 1) == 1]
        assert sorted({*legal_actions(game, state)} - {*lost}) == tactic.answers()
        assert solver.value(state, 3) == 0  # nothing better to do than to stop it
        assert solver.value(state, 4) == 0  # and stopping it helps
    else:
        assert solver.value(state, tactic.plies - 1) == 0
        assert solver.value(state, tactic.plies) == 1
        assert solver.best(state, tactic.plies) == tactic.answers()


@pytest.mark.parametrize("name", BY_GAME)
def test_playouts_find_forced_moves(name):
    game, tactics = GAMES[name], BY_GAME[name]
    positions = [(tactic.position(), len(tactic.moves.split())) for tactic in tactics]
    rules = search_settings(simulations=2000, temperature="0:0")
    forest = rooted(name, rules, positions, np.arange(len(tactics), dtype=np.uint64))
    evaluator = RolloutEvaluator(game, seed=1)
    while len((rows := forest.ask()).ids):
        evaluator.submit(rows.states())
        answer = evaluator.collect(0)
        forest.tell(rows.ids, answer.logits, answer.values)
    for tactic, move in zip(tactics, most_visited(forest, len(tactics)), strict=True):
        assert move in tactic.answers(), tactic


# -- exact values ----------------------------------------------------------------------------------------------------


def search_with_exact_values(name: str, positions: list, simulations: int, solver: Solver) -> list[int]:
    """Return the moves found with flat priors and solved values."""
    rules = search_settings(simulations=simulations, temperature="0:0")
    forest = rooted(name, rules, positions, np.zeros(len(positions), np.uint64))
    while len((rows := forest.ask()).ids):
        states = rows.states()
        values = np.array([[solver.value(states[i : i + 1], 99)] for i in range(len(states))], np.float32)
        forest.tell(rows.ids, np.zeros((len(states), forest.game.num_actions), np.float32), values)
    return most_visited(forest, len(positions))


def test_hex_3x3_is_a_win_from_every_won_position():
    """Every position of 3x3 up to two stones, and random later ones."""
    game, solver, rng = GAMES["hex3"], Solver(GAMES["hex3"]), np.random.default_rng(0)
    first = random_position(game, rng, 0)[0]
    positions = [(first, 0)]
    for a in range(9):
        after = played(game, first, a)
        positions += [(after, 1), *((played(game, after, b), 2) for b in legal_actions(game, after))]
    positions += [random_position(game, rng, int(rng.integers(3, 7))) for _ in range(60)]
    assert solver.value(first, 99) == 1
    moves = search_with_exact_values("hex3", positions, 60, solver)
    for (state, _), move in zip(positions, moves, strict=True):
        assert move in solver.best(state, 99)


def test_late_connect_four_is_played_perfectly():
    game, solver, rng = GAMES["connect_four"], Solver(GAMES["connect_four"]), np.random.default_rng(0)
    positions = []
    while len(positions) < 40:
        state, ply = random_position(game, rng, 33)
        best = solver.best(state, 99) if ply >= 31 else []
        if best and len(best) < len(legal_actions(game, state)):
            assert result(game, state) is None
            positions.append((state, ply))
    values = [solver.value(state, 99) for state, _ in positions]
    assert values.count(1) >= 5
    assert values.count(0) >= 2
    found = search_with_exact_values("connect_four", positions, 100, solver)
    for (state, _), move in zip(positions, found, strict=True):
        assert move in solver.best(state, 99)
