"""The kernel that keeps the subtree of the move that was played."""

from __future__ import annotations

import numpy as np

from grove.common.kernels import kernel, lean_kernel
from grove.mcts.kernels.layout import NONE
from grove.mcts.kernels.rows import copy_bytes


@kernel
def reroot(trees, nodes, edges, legal, states, roots):
    """Make the child of `roots[i].action` the root of its tree where there is one, and say so in `kept`.

    Nodes and edges are moved to the front of the tree's slices in their order, in place: a parent always stands
    before its children.
    """
    node_capacity = nodes.shape[0] // trees.shape[0]
    numbers = np.empty(node_capacity, np.int32)
    for i in range(roots.shape[0]):
        tree = trees[roots[i].tree]
        base = roots[i].tree * node_capacity
        edge = _edge_of(nodes, legal, base, roots[i].action) if tree.nodes > 0 else NONE
        roots[i].kept = edge != NONE and edges[edge].child != NONE and not nodes[edges[edge].child].terminal
        if roots[i].kept:
            tree.simulations = edges[edge].visits - 1
            for p in range(tree.value.shape[0]):
                tree.value[p] = edges[edge].value[p]
            new_root = edges[edge].child
            kept = _number(nodes, base, new_root, numbers[: tree.nodes])
            tree.edges = _move(nodes, edges, legal, states, base, numbers[: tree.nodes])
            tree.nodes = kept
            nodes[base].parent = NONE
            nodes[base].parent_edge = NONE


@lean_kernel
def _edge_of(nodes, legal, node, action):  # -> edge or NONE
    first = nodes[node].first_edge
    for e in range(first, first + nodes[node].visited):
        if legal[e].action == action:
            return e
    return NONE


@lean_kernel
def _number(nodes, base, new_root, numbers):  # -> nodes kept
    """Write the new place of every node of the subtree to `numbers`, NONE elsewhere."""
    kept = 0
    for k in range(numbers.shape[0]):
        node = base + k
        inside = node == new_root or (node > new_root and numbers[nodes[node].parent - base] != NONE)
        numbers[k] = kept if inside else NONE
        kept += inside
    return kept


@lean_kernel
def _move(nodes, edges, legal, states, base, numbers):  # -> edges used
    """Move the numbered nodes, their edges and states to the front; children learn their parents' new places."""
    used = 0
    first_edge = nodes[base].first_edge
    for k in range(numbers.shape[0]):
        if numbers[k] == NONE:
            continue
        place = base + numbers[k]
        old_first = nodes[base + k].first_edge
        nodes[place] = nodes[base + k]
        copy_bytes(states[base + k], states[place])
        nodes[place].first_edge = first_edge + used
        for j in range(nodes[place].edges):
            edge = first_edge + used + j
            legal[edge] = legal[old_first + j]
            if j >= nodes[place].visited:
                continue
            edges[edge] = edges[old_first + j]
            child = edges[edge].child
            if child != NONE:
                edges[edge].child = base + numbers[child - base]
                nodes[child].parent = place
                nodes[child].parent_edge = edge
        used += nodes[place].edges
    return used
