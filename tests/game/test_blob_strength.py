"""Determinized search plays Blob better than chance and better than one world does; rollouts value the leaves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from grove.game import load_game
from grove.workers.selfplay.evaluators import RolloutEvaluator
from tests.support.positions import legal_actions
from tests.support.search_tools import most_visited, rooted, search_settings

GAME = load_game("blob:players=4,cards=3")
Player = Callable[[np.ndarray, int], list[int]]
"""States S [B] and the number of the turn -> an action for each."""


def at_random(states: np.ndarray, turn: int) -> list[int]:
    rng = np.random.default_rng(turn)
    return [int(rng.choice(legal_actions(GAME, states[i : i + 1]))) for i in range(len(states))]


def searching(worlds: int, seed: int) -> Player:
    """Play the most visited move; 60 simulations a decision are shared by the worlds."""
    rules = search_settings(simulations=60, worlds=worlds, simulations_per="decision", temperature="0:0")
    evaluator = RolloutEvaluator(GAME, seed=seed)

    def choose(states: np.ndarray, turn: int) -> list[int]:
        keys = np.random.default_rng([seed, turn]).integers(0, 1 << 63, len(states), np.uint64)
        forest = rooted(GAME, rules, [(states[i : i + 1], turn) for i in range(len(states))], keys)
        while len((rows := forest.ask()).ids):
            ids = rows.ids.copy()
            evaluator.submit(rows)
            answer = evaluator.collect(0)
            forest.tell(ids, answer.logits, answer.values)
        return most_visited(forest, len(states))

    return choose


def lead(tested: Player, others: Player, deals: int) -> tuple[float, float]:
    """Return the 95 % interval of the tested seat's utility less the mean of the others.

    Each deal is played once for every seat that can be the tested one, so that luck of deal and seat cancel.
    """
    players, states = GAME.num_players, np.zeros(deals, GAME.state_dtype)
    GAME.initial(np.arange(1, deals + 1, dtype=np.uint64), states)
    states, seat = np.repeat(states, players), np.tile(np.arange(players), deals)
    mover = np.zeros(len(states), np.int8)
    for turn in range(GAME.max_moves):  # a round always takes as many
        GAME.to_play(states, mover)
        actions = np.zeros(len(states), np.int32)
        for player, mine in ((tested, mover == seat), (others, mover != seat)):
            if mine.any():
                actions[mine] = player(states[mine], turn)
        GAME.step(states, actions)
    utility = np.zeros((len(states), players))
    GAME.outcome(states, np.zeros(len(states), bool), utility)
    own = utility[np.arange(len(states)), seat]
    by_deal = (own - (utility.sum(axis=1) - own) / (players - 1)).reshape(deals, players).mean(axis=1)
    half = 1.96 * float(by_deal.std(ddof=1)) / math.sqrt(deals)
    return float(by_deal.mean()) - half, float(by_deal.mean()) + half


def test_many_worlds_beat_chance() -> None:
    assert lead(searching(10, 1), at_random, 60)[0] > 0


def test_many_worlds_beat_one() -> None:
    """With equal evaluations a decision."""
    assert lead(searching(10, 1), searching(1, 3), 300)[0] > 0


def test_equal_players_are_equal() -> None:
    """The measure itself favours nobody."""
    low, high = lead(at_random, lambda states, turn: at_random(states, turn + 99), 300)
    assert low < 0 < high
