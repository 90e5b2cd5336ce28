"""The kernels that every lap of a forest calls, bound to the types of its arrays (see `grove.common.kernels.bind`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from grove.common.kernels import bind
from grove.game.contract import Game
from grove.mcts.kernels import descend, expand, layout, moves, rows


class BoundKernels:
    """Callables with the kernels' own names; all arrays must be of the types given here, C-contiguous.

    `pools` are trees, nodes, edges, legal moves, states, exploration; `lap` and `slots` the forest's scratch.
    """

    def __init__(self, game: Game, pools: tuple[Any, ...], lap: Any, slots: Any) -> None:
        trees, nodes, edges, legal, states, explore = pools
        ids, logits = np.zeros(1, np.int32), np.zeros(1, np.float32)
        values, told = np.zeros((1, 1), np.float32), np.zeros(1, layout.TOLD)
        self.plant = bind(descend.plant, trees, nodes, lap.work)
        self.descend = bind(descend.descend, trees, nodes, edges, legal, explore, lap.work)
        self.decided = bind(moves.decided, trees, 1, ids)
        self.settle = bind(expand.settle, trees, nodes, edges, lap.work, lap.done, lap.utility)
        self.list_told = bind(expand.list_told, slots.leaves, ids, told, 0)
        self.find_broken = bind(expand.find_broken, slots.leaves, slots.actions, told, logits, values, True)
        self.attach = bind(expand.attach, trees, nodes, legal, slots.leaves, slots.actions, told)
        self.set_priors = bind(expand.set_priors, nodes, legal, slots.leaves, told, logits, True)
        self.answer = bind(expand.answer, trees, nodes, edges, slots.leaves, told, values)
        self.fetch = bind(rows.fetch, states, legal, lap.work, lap.raw, lap.actions)
        self.close_ranks = bind(rows.close_ranks, lap.work, lap.raw)
        self.take_slots = bind(rows.take_slots, slots.by_tree, lap.work, lap.to_play, lap.raw, slots.raw, ids)
        self.keep_legal = bind(rows.keep_legal, slots.leaves, slots.actions, ids, lap.offsets, lap.legal)
        self.store_states = bind(rows.store_states, states, slots.leaves, slots.raw, told)
        self._bind_game(game, lap, slots)

    def _bind_game(self, game: Game, lap: Any, slots: Any) -> None:
        self.step = bind(game.step, lap.states, lap.actions)
        self.outcome = bind(game.outcome, lap.states, lap.done, lap.utility)
        self.legal = bind(game.legal, lap.states, lap.offsets, lap.legal)
        self.to_play = bind(game.to_play, lap.states, lap.to_play)
        self.observe = bind(game.observe, lap.states, slots.observations)
