"""Kernels that read finished searches: which trees are decided, their visits, the move to play."""

from __future__ import annotations

import numpy as np

from common.kernels import kernel, lean_kernel
from common.rng import derive, uniform
from mcts.expand import MOVE_STREAM, actions_ascending


@lean_kernel
def decided(trees, out):  # -> count
    """Write the trees that have their simulations and wait for nothing to `out` int32 [T]."""
    count = 0
    for t in range(trees.shape[0]):
        tree = trees[t]
        if tree.target > 0 and tree.nodes > 0 and tree.pending == 0 and tree.simulations >= tree.target:
            out[count] = t
            count += 1
    return count


@kernel
def root_visits(nodes, edges, legal, roots, offsets, pairs):
    """Write (action, visits) of every visited edge of the nodes `roots[B]`, by action, to `pairs` int32 [., 2].

    Root i's pairs are `pairs[offsets[i]:offsets[i + 1]]`.
    """
    offsets[0] = 0
    for i in range(roots.shape[0]):
        node = nodes[roots[i]]
        end = offsets[i]
        for e in actions_ascending(node, legal):
            if e < node.first_edge + node.visited and edges[e].visits > 0:
                pairs[end, 0] = legal[e].action
                pairs[end, 1] = edges[e].visits
                end += 1
        offsets[i + 1] = end


@lean_kernel
def choose(trees, which, offsets, pairs, temperatures, out):
    """Draw a move of every tree `which[B]` from visits ** (1 / temperature), or the most visited at temperature 0.

    `temperatures` float64 [plies]: its last entry holds from there on. Ties go to the lowest action.
    """
    for i in range(which.shape[0]):
        tree = trees[which[i]]
        temperature = temperatures[min(tree.ply, temperatures.shape[0] - 1)]
        start, end = offsets[i], offsets[i + 1]
        best = start
        for k in range(start + 1, end):
            if pairs[k, 1] > pairs[best, 1]:
                best = k
        if temperature > 0.0:
            draw = uniform(derive(derive(tree.key, tree.ply), MOVE_STREAM), 0)
            best = _draw(pairs, start, end, pairs[best, 1], draw, temperature)
        out[i] = pairs[best, 0]


@lean_kernel
def _draw(pairs, start, end, most, draw, temperature):  # -> index of the drawn pair
    total = 0.0
    for k in range(start, end):
        total += (np.float64(pairs[k, 1]) / most) ** (1.0 / temperature)
    reached = 0.0
    for k in range(start, end):
        reached += (np.float64(pairs[k, 1]) / most) ** (1.0 / temperature)
        if draw * total < reached:
            return k
    return end - 1
