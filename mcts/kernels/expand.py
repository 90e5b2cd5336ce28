"""Kernels that turn answers into nodes and edges, and take back what will not be answered."""

from __future__ import annotations

import math

import numpy as np

from grove.common.kernels import kernel, lean_kernel
from grove.common.rng import derive, gamma
from grove.mcts.kernels.descend import back_up, lead_with_best, mark
from grove.mcts.kernels.layout import FREE, MERGED, NAMED, NONE, PLACED
from grove.mcts.kernels.softmax import exp_all

NOISE_STREAM, MOVE_STREAM, WORLD_STREAM, TREE_STREAM = range(4)
"""Purposes of a game's random numbers at one ply."""


@lean_kernel
def settle(trees, nodes, edges, work, done, utility):  # -> rows kept
    """Make terminal nodes of the finished rows, back them up, and move the other rows together.

    `done[B]` bool, `utility[B, P]` float64. A row at the cap that is not done ends as a timeout. A kept row's `source`
    tells where it stood.
    """
    kept = 0
    for i in range(work.shape[0]):
        row = work[i]
        tree = trees[row.tree]
        timeout = row.ply >= tree.max_ply
        if done[i] or timeout:
            if not done[i]:
                utility[i, :] = tree.timeout_utility
            _add_node(trees, nodes, row)
            nodes[row.node].terminal = 1
            for p in range(utility.shape[1]):
                nodes[row.node].value[p] = utility[i, p]
            edges[row.edge].child = row.node
            back_up(tree, nodes, edges, row.node, 1)
        else:
            work[kept] = row
            work[kept].source = i
            kept += 1
    return kept


@lean_kernel
def _add_node(trees, nodes, row):
    """Take the next node of the row's tree and link it to its parent; `row.node` says which."""
    tree = trees[row.tree]
    capacity = nodes.shape[0] // trees.shape[0]
    row.node = row.tree * capacity + tree.nodes
    tree.nodes += 1
    node = nodes[row.node]
    node.parent = row.parent if row.edge != NONE else NONE
    node.parent_edge = row.edge
    node.ply = row.ply
    node.terminal = 0
    node.first_edge = 0
    node.edges = 0
    node.visited = 0
    node.visited_prior = 0.0


@lean_kernel
def list_told(leaves, ids, told, width):  # -> entries written, or -1 - (position of an id that waits for nothing)
    """List every leaf that `ids` answer, merged ones included.

    `width` A: logits are dense rows of A; 0: they are ragged, each row one logit per legal move.
    """
    count = 0
    base = np.int64(0)
    for i in range(ids.shape[0]):
        if ids[i] < 0 or ids[i] >= leaves.shape[0] or leaves[ids[i]].state != PLACED:
            unlist(leaves, ids, told[:count])
            return -1 - i
        leaf = ids[i]
        while leaf != NONE:
            told[count].leaf = leaf
            told[count].row = i
            told[count].base = base
            leaves[leaf].state = NAMED  # a second mention is refused
            leaf = leaves[leaf].merged
            count += 1
        base += width if width > 0 else leaves[ids[i]].legal
    return count


@lean_kernel
def unlist(leaves, ids, told):
    """Let the listed leaves wait as before."""
    for i in range(told.shape[0]):
        leaves[told[i].leaf].state = PLACED if told[i].leaf == ids[told[i].row] else MERGED


@lean_kernel
def find_broken(leaves, leaf_actions, told, logits, values, dense):  # -> position in `told`, or NONE
    """Find an answer that is not finite; no search can go on from one (NaN scores choose no edge)."""
    for i in range(told.shape[0]):
        leaf, base = told[i].leaf, told[i].base
        total = 0.0
        for j in range(leaves[leaf].legal):
            total += logits[base + (leaf_actions[leaf, j] if dense else j)]
        for p in range(values.shape[1]):
            total += values[told[i].row, p]
        if not math.isfinite(total):
            return i
    return NONE


@lean_kernel
def attach(trees, nodes, legal, leaves, leaf_actions, told):
    """Make a node of every told leaf, with its legal moves; priors follow in `set_priors`."""
    capacity = legal.shape[0] // trees.shape[0]
    for i in range(told.shape[0]):
        leaf = leaves[told[i].leaf]
        tree = trees[leaf.tree]
        _add_node(trees, nodes, leaf)
        node = nodes[leaf.node]
        node.to_play = leaf.to_play
        node.first_edge = leaf.tree * capacity + tree.edges
        node.edges = leaf.legal
        tree.edges += leaf.legal
        for j in range(leaf.legal):
            legal[node.first_edge + j].action = leaf_actions[told[i].leaf, j]


@kernel
def set_priors(nodes, legal, leaves, told, logits, dense):
    """Give the new moves the softmax of their logits (flat float32), in float64 and rounded to float32."""
    count = 0
    for i in range(told.shape[0]):
        count += leaves[told[i].leaf].legal
    weights = np.empty(count, np.float64)
    start = 0
    for i in range(told.shape[0]):
        node = nodes[leaves[told[i].leaf].node]
        top = -math.inf
        for j in range(node.edges):
            logit = np.float64(logits[told[i].base + (legal[node.first_edge + j].action if dense else j)])
            weights[start + j] = logit
            top = max(top, logit)
        for j in range(start, start + node.edges):
            weights[j] -= top
        start += node.edges
    exp_all(weights, np.empty(count, np.int64))
    _normalise(nodes, legal, leaves, told, weights)


@lean_kernel
def _normalise(nodes, legal, leaves, told, weights):
    """Write the told leaves' weights, row after row, as priors that sum to one."""
    start = 0
    for i in range(told.shape[0]):
        node = nodes[leaves[told[i].leaf].node]
        total = 0.0
        for j in range(start, start + node.edges):
            total += weights[j]
        for j in range(node.edges):
            legal[node.first_edge + j].prior = np.float32(weights[start + j] / total)
        start += node.edges
        lead_with_best(node, legal)


@lean_kernel
def answer(trees, nodes, edges, leaves, told, values):  # -> roots among them
    """Back up the values of the told leaves and free their places.

    `values` float32 [B, P], seat-relative with the mover first, or [B, 1] of a two-player zero-sum network.
    """
    roots = 0
    told[0].touched = _prefetch_paths(nodes, edges, leaves, told)
    for i in range(told.shape[0]):
        leaf = leaves[told[i].leaf]
        tree = trees[leaf.tree]
        value = nodes[leaf.node].value
        _rotate(values[told[i].row], leaf.to_play, value)
        if leaf.edge == NONE:
            roots += 1
            tree.pending = 0
            for p in range(value.shape[0]):
                tree.value[p] = value[p]
        else:
            edges[leaf.edge].child = leaf.node
            back_up(tree, nodes, edges, leaf.node, 1)
        tree.collided = 0
        leaf.state = FREE
    return roots


@lean_kernel
def _prefetch_paths(nodes, edges, leaves, told):  # -> a sum that only keeps the loads alive
    """Load the paths that are about to be backed up, one step higher in all of them at a time (`descend._prefetch`)."""
    total = 0
    for i in range(told.shape[0]):
        told[i].at = leaves[told[i].leaf].node
    rising = told.shape[0]
    while rising > 0:
        rising = 0
        for i in range(told.shape[0]):
            if told[i].at != NONE:
                node = nodes[told[i].at]
                if node.parent_edge != NONE:
                    total += edges[node.parent_edge].visits
                    rising += 1
                told[i].at = node.parent
    return total


@lean_kernel
def _rotate(relative, mover, out):
    """Write seat-relative `relative[P]`, or the one value of a two-player zero-sum game, to absolute seats `out[P]`."""
    players = out.shape[0]
    if relative.shape[0] < players:
        out[mover] = relative[0]
        out[1 - mover] = -np.float64(relative[0])
    else:
        for p in range(players):
            out[(mover + p) % players] = relative[p]


@kernel
def add_noise(trees, nodes, edges, legal, roots):
    """Mix Dirichlet noise into the priors of the roots of `roots` (tree numbers), and restore the order of moves."""
    capacity = nodes.shape[0] // trees.shape[0]
    for i in range(roots.shape[0]):
        tree = trees[roots[i]]
        node = nodes[roots[i] * capacity]
        if tree.noise_fraction > 0.0 and node.edges > 1:
            _mix_noise(tree, node, edges, legal)


@kernel
def _mix_noise(tree, node, edges, legal):
    stream = derive(derive(tree.key, tree.ply), NOISE_STREAM)
    alpha = tree.noise_alpha if tree.noise_alpha > 0.0 else 10.0 / node.edges
    noise = np.empty(node.edges, np.float64)
    total = 0.0
    # Draws and their sum go by action, so that the order of moves in memory does not matter.
    order = actions_ascending(node, legal)
    for j in range(node.edges):
        noise[j] = gamma(derive(stream, legal[order[j]].action), alpha)
        total += noise[j]
    for j in range(node.edges):
        move = legal[order[j]]
        share = noise[j] / total if total > 0.0 else 1.0 / node.edges
        move.prior = np.float32((1.0 - tree.noise_fraction) * move.prior + tree.noise_fraction * share)
    node.visited_prior = 0.0
    for e in range(node.first_edge, node.first_edge + node.visited):
        edges[e].prior = legal[e].prior
        node.visited_prior += edges[e].prior
    lead_with_best(node, legal)


@kernel
def actions_ascending(node, legal):  # -> edge numbers
    """Return the node's edges sorted by action (insertion sort: mostly sorted, seldom called)."""
    order = np.empty(node.edges, np.int64)
    for j in range(node.edges):
        e = node.first_edge + j
        k = j
        while k > 0 and legal[order[k - 1]].action > legal[e].action:
            order[k] = order[k - 1]
            k -= 1
        order[k] = e
    return order


@kernel
def withdraw(trees, nodes, edges, legal, leaves, told):
    """Take back the told leaves: every tree stands as before it asked for them."""
    for i in range(told.shape[0]):
        leaf = leaves[told[i].leaf]
        tree = trees[leaf.tree]
        if leaf.edge == NONE:
            tree.pending = 0
        else:
            mark(tree, nodes, edges, leaf.parent, leaf.edge, -1)
            _close_edge(nodes, edges, legal, leaves, leaf)
        tree.collided = 0
        leaf.state = FREE


@kernel
def _close_edge(nodes, edges, legal, leaves, leaf):
    """Count the leaf's edge as unvisited again, keeping the visited edges in the order of their first visits."""
    node = nodes[leaf.parent]
    last = node.first_edge + node.visited - 1
    for e in range(leaf.edge, last):
        _swap(nodes, edges, legal, leaves, e)
    leaf.edge = last
    node.visited -= 1
    node.visited_prior = 0.0
    for e in range(node.first_edge, last):
        node.visited_prior += edges[e].prior
    lead_with_best(node, legal)


@kernel
def _swap(nodes, edges, legal, leaves, e):
    """Swap edges `e` and `e + 1` of one node with all that refers to them."""
    first = edges[e : e + 1].copy()
    edges[e] = edges[e + 1]
    edges[e + 1] = first[0]
    prior, action = legal[e].prior, legal[e].action
    legal[e].prior, legal[e].action = legal[e + 1].prior, legal[e + 1].action
    legal[e + 1].prior, legal[e + 1].action = prior, action
    for k in (e, e + 1):
        if edges[k].child != NONE:
            nodes[edges[k].child].parent_edge = k
    for i in range(leaves.shape[0]):
        if leaves[i].state != FREE:
            if leaves[i].edge == e:
                leaves[i].edge = e + 1
            elif leaves[i].edge == e + 1:
                leaves[i].edge = e
