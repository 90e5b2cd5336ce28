"""How trees lie in memory, and how much of it they take.

Symbols: T trees (one for each of K worlds of each position, see mcts/worlds.py), P players, N simulations, L leaves a
tree may have waiting, S bytes of a game state.

Nodes and edges of all trees stand in two flat pools; tree t owns the slices `[t * node_capacity, ...)` and
`[t * edge_capacity, ...)`, its root is the first node of its slice. Records rather than one array per field: a kernel
call costs about 0.1 us per array argument, and a descent finds all of an edge in one cache line (docs/log.md).
The moves of a node that were ever descended come first; the next one is the best of the rest by prior, so that a
descent looks at visited edges plus one, however many moves are legal. An edge's record is written when it is first
descended; until then only its prior and action exist (LEGAL), so that a new node touches little memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_LINE = 64
NONE = -1
"""No node, no edge, no leaf."""
FREE, PLACED, MERGED, NAMED = 0, 1, 2, 3
"""States of a leaf: unused; waiting for its evaluation; waiting behind an identical leaf; named in a tell or drop
that is under way."""


def tree_dtype(players: int) -> np.dtype[np.void]:
    """Return the record of one tree: its settings, its progress and the totals of its root."""
    return np.dtype([
        ("value", "f8", (players,)),  # sum of all backed-up values at the root, its own evaluation included
        ("fpu_reduction", "f8"), ("virtual_loss", "f8"), ("timeout_utility", "f8"),
        ("noise_fraction", "f8"), ("noise_alpha", "f8"),
        ("key", "u8"),  # random stream of the game
        ("ply", "i4"),  # moves played before the root
        ("age", "i4"),  # those since the game, or its present round, began: what temperatures go by
        ("max_ply", "i4"),  # a position at this ply ends the game as a timeout
        ("target", "i4"),  # simulations wanted; 0 = the tree is at rest
        ("simulations", "i4"),  # simulations done since the root was set
        ("pending", "i4"),  # leaves waiting for an answer
        ("leaves", "i4"),  # L
        ("nodes", "i4"), ("edges", "i4"),  # used entries of its slices
        ("collided", "i4"),  # its last descent met a leaf that is already waiting
    ])  # fmt: skip


def node_dtype(players: int) -> np.dtype[np.void]:
    """Return the record of one node; an expanded or terminal position. 64 bytes, a cache line, for two players."""
    return np.dtype([
        ("value", "f8", (players,)),  # own evaluation or terminal utility, absolute seats
        ("visited_prior", "f8"),  # sum of the priors of the visited edges, in the order of first visits
        ("parent", "i4"), ("parent_edge", "i4"),
        ("first_edge", "i4"), ("edges", "i4"), ("visited", "i4"),
        ("next_prior", "f4"), ("next_action", "i4"),  # of the first unvisited move, so that a descent need not fetch it
        ("ply", "i4"),
        ("to_play", "i4"),
        ("terminal", "i4"),
    ])  # fmt: skip


def edge_dtype(players: int) -> np.dtype[np.void]:
    """Return the record of one edge; a legal move that was descended at least once. 32 bytes for two players."""
    return np.dtype([
        ("value", "f8", (players,)),  # sum of backed-up values, absolute seats
        ("prior", "f4"),  # as in LEGAL
        ("visits", "i4"),
        ("pending", "i4"),  # descents through this edge that wait for an answer
        ("child", "i4"),
    ])  # fmt: skip


WALKER = np.dtype([("tree", "i4"), ("node", "i4"), ("root", "i4"), ("edge", "i4"), ("touched", "i8")])
"""A descent under way: where it stands, where it began, the edge that led here (NONE at the root)."""

LEGAL = np.dtype([("prior", "f4"), ("action", "i4")])
"""A legal move of an expanded node; entry e of this pool belongs to entry e of the edges."""

LEAF = np.dtype([
    ("hash", "u8"),  # of its observation, with a cache
    ("tree", "i4"), ("parent", "i4"), ("edge", "i4"),  # edge NONE: the root itself
    ("ply", "i4"), ("to_play", "i4"), ("legal", "i4"),  # number of legal moves
    ("node", "i4"),  # the node made of it, once told
    ("state", "i4"),  # FREE, PLACED, MERGED or NAMED
    ("merged", "i4"),  # next leaf of this ask with the same observation
    ("source", "i4"),  # where its game state stood before rows were moved together
])  # fmt: skip
"""A leaf on its way: a row of the step being gathered, or one waiting for its answer."""

TOLD = np.dtype([("leaf", "i4"), ("row", "i4"), ("base", "i8"), ("touched", "i8"), ("at", "i8")])
"""One leaf that is being told: its number, its row of values, where its logits start in the flat array; and how far up
its path was touched."""


ROOT = np.dtype([
    ("key", "u8"),
    ("tree", "i4"),  # as the forest's user counts: the number of the position
    ("ply", "i4"), ("age", "i4"), ("target", "i4"),
    ("action", "i4"),  # the move that led here, or NONE
    ("kept", "i4"),  # its subtree was kept
])  # fmt: skip
"""Where a search starts anew: the game's random key, the ply and age of the position, the simulations wanted."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Sizes of a forest's pools, per tree, and their sum in bytes."""

    trees: int
    """All trees: one for each world of each position."""
    nodes: int
    edges: int
    leaves: int
    total_bytes: int


def capacity(trees: int, simulations: int, leaves: int, max_legal: int, row_bytes: tuple[int, int, int]) -> Capacity:
    """Return the pools that can never overflow; `row_bytes` are (state bytes, observation bytes, players).

    Every simulation makes at most one node and the root is one more; a subtree that is kept holds at most as many
    nodes as it has visits, and those count towards the simulations.
    """
    state_bytes, observation_bytes, players = row_bytes
    nodes = simulations + 1 + leaves
    edges = nodes * max_legal
    rows = trees * leaves
    node_bytes = node_dtype(players).itemsize + state_bytes + 4
    small = 60  # what a leaf has of numbers of a few bytes, see mcts/workspace.py
    leaf_bytes = 2 * (LEAF.itemsize + TOLD.itemsize + state_bytes + 4 * max_legal) + 3 * observation_bytes
    leaf_bytes += 8 * players + small
    total = trees * (nodes * node_bytes + edges * (edge_dtype(players).itemsize + LEGAL.itemsize)) + rows * leaf_bytes
    return Capacity(trees=trees, nodes=nodes, edges=edges, leaves=leaves, total_bytes=total)


def pool(entries: int, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return a zeroed array of records that begins on a cache line (64 bytes)."""
    raw = np.zeros(entries * dtype.itemsize + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + entries * dtype.itemsize].view(dtype)
