"""Kernels of the evaluators that need no network.

The test evaluator draws logits and values from a hash of the observation, the rollout evaluator moves from a hash of
the state. Both depend on nothing but the row: the same position gets the same answer in every process, batch and run.
"""

from __future__ import annotations

import numpy as np

from grove.common.kernels import lean_kernel
from grove.common.rng import below, derive, mix
from grove.mcts.kernels.rows import hash_bytes

_SCALE = 1.0 / 16777216.0


@lean_kernel
def hash_evaluate(rows, logits, values):
    """Write logits in [0, 2) float32 [B, A] and values in [-1, 1) float32 [B, V] for rows uint8 [B, K]."""
    for i in range(rows.shape[0]):
        key = hash_bytes(rows[i], rows.shape[1])
        for a in range(logits.shape[1]):
            logits[i, a] = np.float32(np.float64(mix(key + np.uint64(a)) >> np.uint64(40)) * (2.0 * _SCALE))
        for v in range(values.shape[1]):
            value = np.float64(derive(key, v) >> np.uint64(40)) * _SCALE
            values[i, v] = np.float32(2.0 * value - 1.0)


@lean_kernel
def state_keys(states, seed, keys):
    """Write the random key uint64 [B] of every state, uint8 [B, S]."""
    for i in range(states.shape[0]):
        keys[i] = mix(hash_bytes(states[i], states.shape[1]) ^ seed)


@lean_kernel
def draw_moves(keys, turn, offsets, actions, chosen):
    """Draw one of every state's legal moves (ragged `offsets`, `actions`), uniformly, to `chosen` int32 [B]."""
    for i in range(keys.shape[0]):
        first = offsets[i]
        chosen[i] = actions[first + below(keys[i], turn, offsets[i + 1] - first)]
