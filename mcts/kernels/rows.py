"""Kernels that move rows: game states, legal moves and observations as plain bytes."""

from __future__ import annotations

import numpy as np

from grove.common.kernels import lean_kernel
from grove.common.rng import derive, mix
from grove.mcts.kernels.expand import TREE_STREAM, WORLD_STREAM
from grove.mcts.kernels.layout import FREE, NONE, PLACED

_S8, _S16, _S24, _S32 = np.uint64(8), np.uint64(16), np.uint64(24), np.uint64(32)
_S40, _S48, _S56 = np.uint64(40), np.uint64(48), np.uint64(56)
_FOLD = np.uint64(0x9FB21C651E98DF25)


@lean_kernel
def fetch(states, legal, work, work_states, actions):
    """Copy the parent states of `work[B]` to `work_states` uint8 [B, S] and their moves to `actions` int32 [B]."""
    for i in range(work.shape[0]):
        copy_bytes(states[work[i].parent], work_states[i])
        if work[i].edge != NONE:
            actions[i] = legal[work[i].edge].action


@lean_kernel
def copy_bytes(source, target):
    for k in range(source.shape[0]):
        target[k] = source[k]


@lean_kernel
def close_ranks(work, work_states):
    """Move every row's state from where it stood (`source`) to where the row stands now."""
    for i in range(work.shape[0]):
        if work[i].source != i:
            copy_bytes(work_states[work[i].source], work_states[i])


@lean_kernel
def set_root_states(trees, states, roots, root_states):
    """Empty the trees of `roots[B]` (ROOT records) and give each its root state uint8 [B, S]; kept ones stay."""
    capacity = states.shape[0] // trees.shape[0]
    for i in range(roots.shape[0]):
        tree = trees[roots[i].tree]
        tree.key, tree.ply, tree.target = roots[i].key, roots[i].ply, roots[i].target
        tree.age = roots[i].age
        if roots[i].kept:
            continue
        copy_bytes(root_states[i], states[roots[i].tree * capacity])
        tree.nodes = tree.edges = 0
        tree.simulations = tree.pending = tree.collided = 0


@lean_kernel
def spread(roots, seeds, worlds):
    """Turn `roots` (ROOT [B * K], each position's own repeated K times) into those of its trees.

    Writes the seed of every tree's world to `seeds` uint64 [B * K]. A position's first tree keeps the key of the game,
    which draws the move; the others have keys, and with them noise, of their own.
    """
    for i in range(roots.shape[0]):
        world = i % worlds
        key = derive(roots[i].key, roots[i].ply)
        seeds[i] = derive(derive(key, WORLD_STREAM), world)
        if world > 0:
            roots[i].key = derive(derive(key, TREE_STREAM), world)
        roots[i].tree = roots[i].tree * worlds + world


@lean_kernel
def take_leaves(leaves, work, to_play, work_states, leaf_states, ids):
    """Give every row of `work[B]` a free leaf of its tree (`leaves` [T, L]); write leaf numbers to `ids` int32 [B]."""
    per_tree = leaves.shape[1]
    for i in range(work.shape[0]):
        t = work[i].tree
        k = 0
        while leaves[t, k].state != FREE:
            k += 1
        leaves[t, k] = work[i]
        leaves[t, k].to_play = to_play[i]
        leaves[t, k].state = PLACED
        leaves[t, k].merged = NONE
        ids[i] = t * per_tree + k
        copy_bytes(work_states[i], leaf_states[ids[i]])


@lean_kernel
def keep_legal(leaves, leaf_actions, ids, offsets, actions):
    """Store the legal moves of every row (ragged `offsets`, `actions`) beside its leaf."""
    for i in range(ids.shape[0]):
        count = offsets[i + 1] - offsets[i]
        leaves[ids[i]].legal = count
        for j in range(count):
            leaf_actions[ids[i], j] = actions[offsets[i] + j]


@lean_kernel
def store_states(states, leaves, leaf_states, told):
    """Copy the states of told leaves to the nodes made of them."""
    for i in range(told.shape[0]):
        copy_bytes(leaf_states[told[i].leaf], states[leaves[told[i].leaf].node])


@lean_kernel
def keep_rows(leaves, ids, rows, leaf_rows, hashes):
    """Store observations uint8 [B, K] and their hashes beside the leaves `ids[B]`."""
    for i in range(ids.shape[0]):
        leaves[ids[i]].hash = hashes[i]
        copy_bytes(rows[i], leaf_rows[ids[i]])


@lean_kernel
def list_legal(leaves, leaf_actions, ids, offsets, actions):
    """Write the legal moves of leaves `ids[B]` as a ragged list."""
    offsets[0] = 0
    for i in range(ids.shape[0]):
        count = leaves[ids[i]].legal
        offsets[i + 1] = offsets[i] + count
        for j in range(count):
            actions[offsets[i] + j] = leaf_actions[ids[i], j]


@lean_kernel
def gather(source, indices, target):
    """Copy rows `indices[B]` of `source` uint8 [., K] to `target` uint8 [B, K]."""
    for i in range(indices.shape[0]):
        copy_bytes(source[indices[i]], target[i])


@lean_kernel
def hash_rows(rows, hashes):
    """Write a 64-bit hash of every row of `rows` uint8 [B, K] to `hashes` uint64 [B]."""
    length = rows.shape[1]
    for i in range(rows.shape[0]):
        hashes[i] = hash_bytes(rows[i], length)


@lean_kernel
def hash_bytes(row, length):  # -> uint64
    """Hash `length` bytes, eight at a time: multiply and fold, and SplitMix64's mixer at the end."""
    value = np.uint64(length)
    whole = length - length % 8
    for k in range(0, whole, 8):
        # Written out so that the compiler makes one load of it.
        word = (
            np.uint64(row[k])
            | np.uint64(row[k + 1]) << _S8
            | np.uint64(row[k + 2]) << _S16
            | np.uint64(row[k + 3]) << _S24
            | np.uint64(row[k + 4]) << _S32
            | np.uint64(row[k + 5]) << _S40
            | np.uint64(row[k + 6]) << _S48
            | np.uint64(row[k + 7]) << _S56
        )
        value = (value ^ word) * _FOLD
        value ^= value >> _S32
    tail = np.uint64(0)
    for k in range(whole, length):
        tail = (tail << _S8) | np.uint64(row[k])
    return mix((value ^ tail) * _FOLD)
