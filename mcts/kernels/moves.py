"""Kernels that read finished searches: which trees are decided, their visits, the move to play."""

from __future__ import annotations

import numpy as np

from grove.common.kernels import kernel, lean_kernel
from grove.common.rng import derive, uniform
from grove.mcts.kernels.expand import MOVE_STREAM, actions_ascending


@lean_kernel
def decided(trees, worlds, out):  # -> count
    """Write the positions all of whose trees, `worlds` each, have their simulations and wait for nothing to `out`."""
    count = 0
    for first in range(0, trees.shape[0], worlds):
        t = first
        while t < first + worlds and _is_decided(trees[t]):
            t += 1
        if t == first + worlds:
            out[count] = first // worlds
            count += 1
    return count


@lean_kernel
def _is_decided(tree):
    return tree.target > 0 and tree.nodes > 0 and tree.pending == 0 and tree.simulations >= tree.target


@kernel
def root_visits(nodes, edges, legal, roots, offsets, pairs):
    """Write (action, visits) of every visited move of the positions with root nodes `roots[B, K]` to `pairs`.

    By action; visits are summed over the worlds, in all of which the same moves are legal. Position i's pairs are
    `pairs[offsets[i]:offsets[i + 1]]`, int32 [., 2].
    """
    offsets[0] = 0
    for i in range(roots.shape[0]):
        start = offsets[i]
        for world in range(roots.shape[1]):
            node = nodes[roots[i, world]]
            order = actions_ascending(node, legal)
            for j in range(node.edges):
                visited = order[j] < node.first_edge + node.visited
                visits = edges[order[j]].visits if visited else 0
                pairs[start + j, 0] = legal[order[j]].action
                pairs[start + j, 1] = visits + (pairs[start + j, 1] if world > 0 else 0)
        offsets[i + 1] = _drop_unvisited(pairs, start, start + nodes[roots[i, 0]].edges)


@lean_kernel
def _drop_unvisited(pairs, start, end):  # -> end of the pairs kept
    kept = start
    for k in range(start, end):
        if pairs[k, 1] > 0:
            pairs[kept, 0], pairs[kept, 1] = pairs[k, 0], pairs[k, 1]
            kept += 1
    return kept


@lean_kernel
def choose(trees, which, offsets, pairs, temperatures, out):
    """Draw a move of every tree `which[B]` from visits ** (1 / temperature), or the most visited at temperature 0.

    `temperatures` float64 by age: the last entry holds from there on. Ties go to the lowest action.
    """
    for i in range(which.shape[0]):
        tree = trees[which[i]]
        temperature = temperatures[min(tree.age, temperatures.shape[0] - 1)]
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
