"""Kernels that walk from the roots to leaves.

The rule inside the tree is PUCT (Silver et al., A general reinforcement learning algorithm ..., Science 2018,
supplementary pseudocode): score = Q + c(N) sqrt(N) P / (1 + n), where N counts the node's own evaluation. Scores are
float64, ties go to the lowest action.
"""

from __future__ import annotations

import math

from common.kernels import kernel
from mcts.layout import NONE


@kernel
def plant(trees, nodes, work):  # T, nodes, rows -> number of rows
    """Write a row for every tree that wants simulations and has no root yet; its state stands in the root's place."""
    capacity = nodes.shape[0] // trees.shape[0]
    rows = 0
    for t in range(trees.shape[0]):
        if trees[t].target > 0 and trees[t].nodes == 0 and trees[t].pending == 0:
            _write_row(work[rows], t, t * capacity, NONE, trees[t].ply)
            trees[t].pending = 1
            rows += 1
    return rows


@kernel
def _write_row(row, tree, parent, edge, ply):
    row.tree = tree
    row.parent = parent
    row.edge = edge
    row.ply = ply


@kernel
def descend(trees, nodes, edges, legal, explore, work):  # -> number of rows
    """Walk every tree that may go on to one new leaf each and write it to `work`.

    `explore[n]` is c(n) * sqrt(n), float64. Known terminal leaves are backed up on the way and the tree walks again.
    """
    capacity = nodes.shape[0] // trees.shape[0]
    rows = 0
    for t in range(trees.shape[0]):
        tree = trees[t]
        if tree.nodes == 0 or tree.collided or tree.pending >= tree.leaves:
            continue
        while tree.simulations + tree.pending < tree.target:
            node, edge = _walk(tree, nodes, edges, legal, explore, t * capacity)
            if edge == nodes[node].first_edge + nodes[node].visited:
                _open_edge(nodes[node], edges, legal)
                mark(tree, nodes, edges, node, edge, 1)
                _write_row(work[rows], t, node, edge, nodes[node].ply + 1)
                rows += 1
                break
            if edges[edge].child == NONE:  # it waits for its evaluation
                tree.collided = 1
                break
            back_up(tree, nodes, edges, edges[edge].child, 0)
    return rows


@kernel
def _walk(tree, nodes, edges, legal, explore, root):  # -> node, edge
    """Follow the best edges from `root` to one that was never descended, that waits, or whose child is terminal."""
    node = root
    visits = tree.simulations + tree.pending + 1
    mean = tree.value[nodes[node].to_play] / (tree.simulations + 1)
    while True:
        edge = _select(tree, nodes[node], edges, legal, explore[visits], mean)
        if edge == nodes[node].first_edge + nodes[node].visited:
            return node, edge
        child = edges[edge].child
        if child == NONE or nodes[child].terminal:
            return node, edge
        node = child
        visits = edges[edge].visits + edges[edge].pending
        mean = edges[edge].value[nodes[node].to_play] / edges[edge].visits


@kernel
def _select(tree, node, edges, legal, scale, mean):  # -> edge
    """Return the edge with the highest PUCT score; only the best unvisited edge needs a look."""
    best, best_score = NONE, -math.inf
    mover = node.to_play
    end = node.first_edge + node.visited
    for e in range(node.first_edge, end):
        edge = edges[e]
        n = edge.visits + edge.pending
        score = (edge.value[mover] - tree.virtual_loss * edge.pending) / n + scale * edge.prior / (1 + n)
        if score > best_score or (score == best_score and legal[e].action < legal[best].action):
            best, best_score = e, score
    if node.visited < node.edges:
        score = mean - tree.fpu_reduction * math.sqrt(node.visited_prior) + scale * legal[end].prior
        if score > best_score or (score == best_score and legal[end].action < legal[best].action):
            best = end
    return best


@kernel
def _open_edge(node, edges, legal):
    """Count the first unvisited edge of `node` as visited and bring the best of the rest behind it."""
    e = node.first_edge + node.visited
    edge = edges[e]
    edge.prior = legal[e].prior
    edge.visits = 0
    edge.pending = 0
    edge.child = NONE
    for p in range(edge.value.shape[0]):
        edge.value[p] = 0.0
    node.visited_prior += edge.prior
    node.visited += 1
    lead_with_best(node, legal)


@kernel
def lead_with_best(node, legal):
    """Swap the unvisited move with the highest prior (lowest action on ties) to the front of the unvisited ones."""
    start = node.first_edge + node.visited
    best = start
    for e in range(start + 1, node.first_edge + node.edges):
        if legal[e].prior > legal[best].prior or (
            legal[e].prior == legal[best].prior and legal[e].action < legal[best].action
        ):
            best = e
    if best != start:
        prior, action = legal[start].prior, legal[start].action
        legal[start].prior, legal[start].action = legal[best].prior, legal[best].action
        legal[best].prior, legal[best].action = prior, action


@kernel
def mark(tree, nodes, edges, node, edge, change):
    """Add `change` to the waiting visits of every edge from the leaf's `edge` up to the root, and of the tree."""
    tree.pending += change
    while edge != NONE:
        edges[edge].pending += change
        edge = nodes[node].parent_edge
        node = nodes[node].parent


@kernel
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
