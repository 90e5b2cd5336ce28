"""A counter-based random generator for kernels: every draw is a pure function of (key, counter).

A stream is one uint64 that the caller owns. SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014) mixes it; keys of games, moves and purposes are derived with `derive`, so a game's randomness
does not depend on which worker, group or pool plays it.
"""

from __future__ import annotations

import math

import numpy as np

from grove.common.kernels import kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@kernel
def mix(value):  # uint64 -> uint64
    """Return SplitMix64's output function of `value` (uint64 to uint64, a bijection)."""
    value = (value ^ (value >> _S30)) * _MIX_1
    value = (value ^ (value >> _S27)) * _MIX_2
    return value ^ (value >> _S31)


@kernel
def derive(key, index):  # uint64, integer -> uint64
    """Return the uint64 key of sub-stream `index` of `key`."""
    return mix(np.uint64(key) + _GOLDEN * (np.uint64(index) + np.uint64(1)))


@kernel
def uniform(key, counter):  # uint64, integer -> float64
    """Return draw number `counter` of the stream `key`, uniform in [0, 1)."""
    return np.float64(derive(key, counter) >> _S11) * (1.0 / 9007199254740992.0)


@kernel
def below(key, counter, bound):  # uint64, integer, integer -> int64
    """Return draw number `counter` of the stream `key`, an integer in [0, bound); bias below bound / 2**53."""
    return np.int64(uniform(key, counter) * bound)


@kernel
def gamma(key, shape):  # uint64, float64 -> float64
    """Return one Gamma(shape, 1) draw of the stream `key` (Marsaglia and Tsang 2000, with their boost below 1)."""
    boosted = shape if shape >= 1.0 else shape + 1.0
    d = boosted - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    counter = 0
    while True:
        radius = math.sqrt(-2.0 * math.log(1.0 - uniform(key, counter)))
        normal = radius * math.cos(2.0 * math.pi * uniform(key, counter + 1))
        accept = 1.0 - uniform(key, counter + 2)
        counter += 3
        v = (1.0 + c * normal) ** 3
        if v > 0.0 and math.log(accept) < 0.5 * normal * normal + d - d * v + d * math.log(v):
            break
    if shape >= 1.0:
        return d * v
    return d * v * (1.0 - uniform(key, counter)) ** (1.0 / shape)
