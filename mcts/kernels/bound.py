"""The kernels that every search step of a forest calls, bound to the types of its arrays (see
`grove.common.kernels.bind`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from grove.common.kernels import bind
from grove.game.contract import Game
from grove.mcts.kernels import descend, expand, layout, moves, rows


class BoundKernels:
    """Callables with the kernels' own names; all arrays must be of the types given here, C-contiguous.

    `pools` are trees, nodes, edges, legal moves, states, exploration; `space` and `pending` the forest's workspace.
    """

    def __init__(self, game: Game, pools: tuple[Any, ...], space: Any, pending: Any) -> None:
        trees, nodes, edges, legal, states, explore = pools
        ids, logits = np.zeros(1, np.int32), np.zeros(1, np.float32)
        values, told = np.zeros((1, 1), np.float32), np.zeros(1, layout.TOLD)
        self.list_roots = bind(descend.list_roots, trees, nodes, space.work)
        self.descend = bind(descend.descend, trees, nodes, edges, legal, explore, space.work)
        self.decided = bind(moves.decided, trees, 1, ids)
        self.settle = bind(expand.settle, trees, nodes, edges, space.work, space.done, space.utility)
        self.list_told = bind(expand.list_told, pending.leaves, ids, told, 0)
        self.find_broken = bind(expand.find_broken, pending.leaves, pending.actions, told, logits, values, True)
        self.attach = bind(expand.attach, trees, nodes, legal, pending.leaves, pending.actions, told)
        self.set_priors = bind(expand.set_priors, nodes, legal, pending.leaves, told, logits, True)
        self.answer = bind(expand.answer, trees, nodes, edges, pending.leaves, told, values)
        self.fetch = bind(rows.fetch, states, legal, space.work, space.raw, space.actions)
        self.close_ranks = bind(rows.close_ranks, space.work, space.raw)
        self.take_leaves = bind(
            rows.take_leaves, pending.by_tree, space.work, space.to_play, space.raw, pending.raw, ids
        )
        self.keep_legal = bind(rows.keep_legal, pending.leaves, pending.actions, ids, space.offsets, space.legal)
        self.store_states = bind(rows.store_states, states, pending.leaves, pending.raw, told)
        self._bind_game(game, space, pending)

    def _bind_game(self, game: Game, space: Any, pending: Any) -> None:
        self.step = bind(game.step, space.states, space.actions)
        self.outcome = bind(game.outcome, space.states, space.done, space.utility)
        self.legal = bind(game.legal, space.states, space.offsets, space.legal)
        self.to_play = bind(game.to_play, space.states, space.to_play)
        self.observe = bind(game.observe, space.states, pending.observations)
