"""Is one search stronger than another? Rollout evaluation, the same deals for both, every seat in turn.

In each round one seat plays the tested way and all others play the other way; each deal is played once for every seat
that can be the tested one, so that luck of the deal and of the seat cancel. The figure is the tested seat's score less
the mean of the others, in points of utility, with a 95 % interval over deals.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from grove.common.rng import derive
from grove.game import Game
from grove.mcts import NONE, ROOT, Forest, SearchSettings
from grove.workers.selfplay.evaluators import RolloutEvaluator
from grove.workers.selfplay.row_kernels import draw_moves

States = npt.NDArray[np.void]
Ints = npt.NDArray[np.int32]


class RandomPlayer:
    """Plays any legal action."""

    def __init__(self, game: Game, seed: int) -> None:
        self._game, self._seed, self._turn = game, seed, 0

    def choose(self, states: States) -> Ints:
        """Return an action int32 [B] for each of `states` S [B]."""
        self._turn += 1
        count = len(states)
        offsets, actions = np.zeros(count + 1, np.int64), np.zeros(count * self._game.max_legal, np.int32)
        self._game.legal(states, offsets, actions)
        keys = np.array([derive(np.uint64(self._seed), i) for i in range(count)], np.uint64)
        chosen = np.empty(count, np.int32)
        draw_moves(keys, self._turn, offsets, actions, chosen)
        return chosen


class SearchPlayer:
    """Plays the most visited action of a search whose leaves are valued by random games."""

    def __init__(self, game: Game, settings: SearchSettings, most: int, seed: int) -> None:
        self._forest = Forest(game, most, settings)
        self._evaluator = RolloutEvaluator(game, seed=seed)
        self._seed, self._turn, self._target = seed, 0, settings.simulations

    def choose(self, states: States) -> Ints:
        """Return an action int32 [B] for each of `states` S [B]; B is at most `most`."""
        self._turn += 1
        count, forest = len(states), self._forest
        roots = np.zeros(count, ROOT)
        roots["tree"], roots["target"], roots["action"] = np.arange(count), self._target, NONE
        stream = np.uint64(derive(np.uint64(self._seed), self._turn))
        roots["key"] = [derive(stream, i) for i in range(count)]
        forest.set_roots(roots, states)
        while len(decided := forest.search()) < count:
            rows = forest.ask()
            ids = rows.ids.copy()
            self._evaluator.submit(rows)
            answer = self._evaluator.collect(0.0)
            assert answer is not None, "it computes when it is asked"
            forest.tell(ids, answer.logits, answer.values)
        chosen = forest.choose(decided, forest.root_visits(decided))
        self._rest(roots, states)
        return chosen

    def _rest(self, roots: States, states: States) -> None:
        roots["target"] = 0
        self._forest.set_roots(roots, states)


class Interval(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    deals: int


def duel(game: Game, deals: int, tested: RandomPlayer | SearchPlayer, other: RandomPlayer | SearchPlayer) -> Interval:
    """Return how much more utility the tested player gets than the others; players must take `deals` * P states."""
    players = game.num_players
    states = np.zeros(deals, game.state_dtype)
    game.initial(np.arange(1, deals + 1, dtype=np.uint64), states)
    states = np.repeat(states, players)
    tested_seat = np.tile(np.arange(players), deals)
    done, utility = np.zeros(len(states), np.bool_), np.zeros((len(states), players))
    mover = np.zeros(len(states), np.int8)
    game.outcome(states, done, utility)
    while not done.all():
        game.to_play(states, mover)
        for player, mine in ((tested, mover == tested_seat), (other, mover != tested_seat)):
            which = np.flatnonzero(mine & ~done)
            if len(which):
                part = states[which]
                game.step(part, player.choose(part))
                states[which] = part
        game.outcome(states, done, utility)
    own = utility[np.arange(len(states)), tested_seat]
    lead = own - (utility.sum(axis=1) - own) / (players - 1)
    by_deal = lead.reshape(deals, players).mean(axis=1)
    half = 1.96 * float(by_deal.std(ddof=1)) / math.sqrt(deals)
    mean = float(by_deal.mean())
    return Interval(mean, mean - half, mean + half, deals)


def settings_of(worlds: int, simulations: int, per: Literal["world", "decision"]) -> SearchSettings:
    """Return a search for playing, not for learning: no noise, the most visited move."""
    return SearchSettings(
        simulations=simulations, worlds=worlds, simulations_per=per, noise_fraction=0.0, temperature="0:0"
    )
