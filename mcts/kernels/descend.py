"""Kernels that walk from the roots to leaves.

The rule inside the tree is PUCT (Silver et al., A general reinforcement learning algorithm ..., Science 2018,
supplementary pseudocode): score = Q + c(N) sqrt(N) P / (1 + n), where N counts the node's own evaluation. Scores are
float64, ties go to the lowest action.
"""

from __future__ import annotations

import math

import numpy as np

from grove.common.kernels import kernel, lean_kernel
from grove.mcts.kernels.layout import NONE, WALKER


@lean_kernel
def list_roots(trees, nodes, work):  # T, nodes, rows -> number of rows
    """Write a row for every tree that wants simulations and has no root yet; its state stands in the root's place."""
    capacity = nodes.shape[0] // trees.shape[0]
    rows = 0
    for t in range(trees.shape[0]):
        if trees[t].target > 0 and trees[t].nodes == 0 and trees[t].pending == 0:
            _write_row(work[rows], t, t * capacity, NONE, trees[t].ply)
            trees[t].pending = 1
            rows += 1
    return rows


@lean_kernel
def _write_row(row, tree, parent, edge, ply):
    row.tree = tree
    row.parent = parent
    row.edge = edge
    row.ply = ply


@kernel
def descend(trees, nodes, edges, legal, explore, work):  # -> number of rows
    """Walk every tree that may go on to one new leaf each and write it to `work`.

    `explore[n]` is c(n) * sqrt(n), float64. Known terminal leaves are backed up on the way and the tree walks again.
    All trees take a step before any takes the next: their memory is fetched side by side instead of one after another.
    """
    walkers = np.empty(trees.shape[0], WALKER)
    walking = _set_out(trees, walkers, nodes.shape[0] // trees.shape[0])
    rows = 0
    while walking > 0:
        walkers[0].touched = _prefetch(walkers, walking, nodes, edges)
        still = 0
        for i in range(walking):
            walker = walkers[i]
            tree, node = trees[walker.tree], nodes[walker.node]
            if node.terminal:
                back_up(tree, nodes, edges, walker.node, 0)
                if not _wants_more(tree):
                    continue
                walker.node, walker.edge = walker.root, NONE
            else:
                e = _select(tree, node, edges, legal, explore, walker.edge)
                if e == node.first_edge + node.visited:
                    _write_row(work[rows], walker.tree, walker.node, e, node.ply + 1)
                    rows += 1
                    continue
                if edges[e].child == NONE:  # it waits for its evaluation
                    tree.collided = 1
                    continue
                walker.node, walker.edge = edges[e].child, e
            walkers[still] = walker
            still += 1
        walking = still
    _open_edges(trees, nodes, edges, legal, work[:rows])
    return rows


@lean_kernel
def _open_edges(trees, nodes, edges, legal, work):
    """Open the edges that the rows lead through and mark their paths as waiting; loaded first, as in `_prefetch`."""
    total = 0
    for i in range(work.shape[0]):
        node = nodes[work[i].parent]
        total += edges[work[i].edge].visits + legal[work[i].edge].action
        total += legal[node.first_edge + node.edges - 1].action
    for i in range(work.shape[0]):
        row = work[i]
        row.source = total
        _open_edge(nodes[row.parent], edges, legal)
        mark(trees[row.tree], nodes, edges, row.parent, row.edge, 1)


@lean_kernel
def _set_out(trees, walkers, capacity):  # -> number of walkers
    """Place a walker at the root of every tree that may go on."""
    walking = 0
    for t in range(trees.shape[0]):
        tree = trees[t]
        if tree.nodes > 0 and not tree.collided and tree.pending < tree.leaves and _wants_more(tree):
            walker = walkers[walking]
            walker.tree = t
            walker.node = walker.root = t * capacity
            walker.edge = NONE
            walking += 1
    return walking


@lean_kernel
def _prefetch(walkers, walking, nodes, edges):  # -> a sum that only keeps the loads alive
    """Load the cache lines that the next step of every walker reads.

    While the network ran, the trees were evicted from L1 and L2. These short loops have many loads in flight at once;
    the step itself would wait for one after another.
    """
    total = 0
    for i in range(walking):
        total += nodes[walkers[i].node].visited
    for i in range(walking):
        node = nodes[walkers[i].node]
        for e in range(node.first_edge, node.first_edge + node.visited, 2):
            total += edges[e].visits
    return total


@lean_kernel
def _wants_more(tree):
    return tree.simulations + tree.pending < tree.target


@lean_kernel
def _select(tree, node, edges, legal, explore, parent_edge):  # -> edge
    """Return the edge with the highest PUCT score; only the best unvisited move needs a look.

    The node was reached by `parent_edge`, or is the root.
    """
    if parent_edge == NONE:
        scale = explore[tree.simulations + tree.pending + 1]
        mean = tree.value[node.to_play] / (tree.simulations + 1)
    else:
        scale = explore[edges[parent_edge].visits + edges[parent_edge].pending]
        mean = edges[parent_edge].value[node.to_play] / edges[parent_edge].visits
    best, best_score, equals = NONE, -math.inf, 0
    end = node.first_edge + node.visited
    for e in range(node.first_edge, end):
        score = _score(tree, edges[e], node.to_play, scale)
        # Without branches on the score, which nothing could predict.
        equals = 0 if score > best_score else equals + (score == best_score)
        best = e if score > best_score else best
        best_score = max(score, best_score)
    if equals > 0:
        best = _lowest_of_equals(tree, node, edges, legal, scale, best_score)
    if node.visited < node.edges:
        score = mean - tree.fpu_reduction * math.sqrt(node.visited_prior) + scale * node.next_prior
        if score > best_score or (score == best_score and node.next_action < legal[best].action):
            best = end
    return best


@lean_kernel
def _score(tree, edge, mover, scale):
    """Return PUCT's score of a visited edge; a waiting visit counts as a loss of `virtual_loss`."""
    n = edge.visits + edge.pending
    return (edge.value[mover] - tree.virtual_loss * edge.pending) / n + scale * edge.prior / (1 + n)


@lean_kernel
def _lowest_of_equals(tree, node, edges, legal, scale, best_score):  # -> edge
    best = NONE
    for e in range(node.first_edge, node.first_edge + node.visited):
        if _score(tree, edges[e], node.to_play, scale) == best_score and (
            best == NONE or legal[e].action < legal[best].action
        ):
            best = e
    return best


@lean_kernel
def _open_edge(node, edges, legal):
    """Count the first unvisited edge of `node` as visited and bring the best of the rest behind it."""
    e = node.first_edge + node.visited
    edge = edges[e]
    edge.prior = node.next_prior
    edge.visits = 0
    edge.pending = 0
    edge.child = NONE
    for p in range(edge.value.shape[0]):
        edge.value[p] = 0.0
    node.visited_prior += edge.prior
    node.visited += 1
    lead_with_best(node, legal)


@lean_kernel
def lead_with_best(node, legal):
    """Swap the unvisited move with the highest prior (lowest action on ties) to the front of the unvisited ones."""
    if node.visited == node.edges:
        return
    start = node.first_edge + node.visited
    best, best_prior, equals = start, legal[start].prior, 0
    for e in range(start + 1, node.first_edge + node.edges):
        # Without branches on the prior, which nothing could predict.
        prior = legal[e].prior
        equals = 0 if prior > best_prior else equals + (prior == best_prior)
        best = e if prior > best_prior else best
        best_prior = max(prior, best_prior)
    if equals > 0:
        for e in range(start, node.first_edge + node.edges):
            if legal[e].prior == best_prior and legal[e].action < legal[best].action:
                best = e
    if best != start:
        action = legal[start].action
        legal[best].prior, legal[start].prior = legal[start].prior, best_prior
        legal[start].action, legal[best].action = legal[best].action, action
    node.next_prior, node.next_action = legal[start].prior, legal[start].action


@lean_kernel
def mark(tree, nodes, edges, node, edge, change):
    """Add `change` to the waiting visits of every edge from the leaf's `edge` up to the root, and of the tree."""
    tree.pending += change
    while edge != NONE:
        edges[edge].pending += change
        edge = nodes[node].parent_edge
        node = nodes[node].parent


@lean_kernel
def back_up(tree, nodes, edges, leaf, waited):
    """Add one visit with the value of node `leaf` to every edge from it up to the root, and to the tree.

    `waited`: 1 where this visit was marked as waiting on these edges and the tree, else 0.
    """
    value = nodes[leaf].value
    players = value.shape[0]
    node = leaf
    edge = nodes[node].parent_edge
    while edge != NONE:
        edges[edge].visits += 1
        edges[edge].pending -= waited
        for p in range(players):
            edges[edge].value[p] += value[p]
        node = nodes[node].parent
        edge = nodes[node].parent_edge
    tree.simulations += 1
    tree.pending -= waited
    for p in range(players):
        tree.value[p] += value[p]
