"""The evaluation cache of one worker, shared by all its games, and the merging of identical leaves.

Keyed by the observation's bytes and the model version: the network sees nothing else, and the Game contract promises
that equal observations have equal legal moves. Four-way set-associative, bounded, whole keys compared.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grove.common.kernels import lean_kernel
from grove.mcts.kernels.layout import MERGED, NONE
from grove.mcts.kernels.rows import copy_bytes

_WAYS = 4

ENTRY = np.dtype([("hash", "u8"), ("generation", "u4"), ("stamp", "u4")])


class EvaluationCache:
    """Legal logits and values of up to `capacity` positions (rounded up to a multiple of four)."""

    def __init__(self, capacity: int, observation_bytes: int, max_legal: int) -> None:
        size = max(1, -(-capacity // _WAYS)) * _WAYS
        self.entries = np.zeros(size, ENTRY)
        self.keys = np.zeros((size, observation_bytes), np.uint8)
        self.logits = np.zeros((size, max_legal), np.float32)
        self.values = np.zeros((size, 0), np.float32)  # [entries, width of the evaluator's values]
        self.lookups = 0
        self.hits = 0
        self.version = ""
        """Model whose evaluations it holds."""
        self._generation = 1

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole table."""
        return self.entries.nbytes + self.keys.nbytes + self.logits.nbytes + self.values.nbytes

    def find(
        self, hashes: npt.NDArray[np.uint64], rows: npt.NDArray[np.uint8], found: npt.NDArray[np.int32]
    ) -> int:
        """Write the entry of every row uint8 [B, K], or NONE, to `found` int32 [B]; return the number of hits."""
        hits = int(_find(self.entries, self.keys, hashes, rows, found, self._generation))
        self.lookups += len(hashes)
        self.hits += hits
        return hits

    def store(
        self,
        leaves: npt.NDArray[np.void],
        leaf_rows: npt.NDArray[np.uint8],
        leaf_actions: npt.NDArray[np.int32],
        told: npt.NDArray[np.void],
        answers: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], bool, str],
    ) -> None:
        """Remember the answers (flat logits, values [B, V], dense?, model version) of the told leaves.

        Another model version, or width of values, than the last one forgets everything older.
        """
        logits, values, dense, version = answers
        width = values.shape[1]
        if version != self.version or width != self.values.shape[1]:
            self.version = version
            self._generation += 1
        if width != self.values.shape[1]:
            self.values = np.zeros((len(self.entries), width), np.float32)
        _claim(self.entries, self.keys, leaves, leaf_rows, told, self._generation)
        _write_logits(self.logits, leaves, leaf_actions, told, logits, dense)
        _write_values(self.values, leaves, told, values)


@lean_kernel
def _find(entries, keys, hashes, rows, found, generation):
    hits = 0
    for i in range(hashes.shape[0]):
        found[i] = NONE
        first = _set_of(entries, hashes[i])
        for e in range(first, first + _WAYS):
            if entries[e].generation == generation and entries[e].hash == hashes[i] and same_bytes(keys[e], rows[i]):
                entries[e].stamp = _newest(entries, first) + np.uint32(1)
                found[i] = e
                hits += 1
                break
    return hits


@lean_kernel
def _set_of(entries, key_hash):
    return np.int64(key_hash % np.uint64(entries.shape[0] // _WAYS)) * _WAYS


@lean_kernel
def _newest(entries, first):
    newest = entries[first].stamp
    for e in range(first + 1, first + _WAYS):
        newest = max(newest, entries[e].stamp)
    return newest


@lean_kernel
def _claim(entries, keys, leaves, leaf_rows, told, generation):
    """Give every told leaf an entry (its own, or the least recently used of its set); leaf.source says which."""
    for i in range(told.shape[0]):
        leaf = leaves[told[i].leaf]
        row = leaf_rows[told[i].leaf]
        first = _set_of(entries, leaf.hash)
        chosen = first
        for e in range(first, first + _WAYS):
            if entries[e].generation == generation and entries[e].hash == leaf.hash and same_bytes(keys[e], row):
                chosen = e
                break
            stale = entries[e].generation != generation
            if entries[chosen].generation == generation and (stale or entries[e].stamp < entries[chosen].stamp):
                chosen = e
        entries[chosen].stamp = _newest(entries, first) + np.uint32(1)
        entries[chosen].hash = leaf.hash
        entries[chosen].generation = generation
        copy_bytes(row, keys[chosen])
        leaf.source = chosen


@lean_kernel
def _write_logits(table, leaves, leaf_actions, told, logits, dense):
    for i in range(told.shape[0]):
        leaf = leaves[told[i].leaf]
        for j in range(leaf.legal):
            table[leaf.source, j] = logits[told[i].base + (leaf_actions[told[i].leaf, j] if dense else j)]


@lean_kernel
def _write_values(table, leaves, told, values):
    for i in range(told.shape[0]):
        for v in range(values.shape[1]):
            table[leaves[told[i].leaf].source, v] = values[told[i].row, v]


@lean_kernel
def same_bytes(a, b):
    """Return whether two uint8 rows of one length are equal."""
    for k in range(a.shape[0]):
        if a[k] != b[k]:
            return False
    return True


@lean_kernel
def list_hits(ids, found, told, misses, max_legal):  # -> number of hits
    """Sort the leaves `ids[B]` into `told` records that point into the cache's tables, and `misses` int32 [B]."""
    hits = 0
    for i in range(ids.shape[0]):
        if found[i] != NONE:
            told[hits].leaf = ids[i]
            told[hits].row = found[i]
            told[hits].base = np.int64(found[i]) * max_legal
            hits += 1
        else:
            misses[i - hits] = ids[i]
    return hits


@lean_kernel
def merge(leaves, leaf_rows, misses, table, asked):  # -> number of leaves written to `asked`
    """Chain every leaf behind an earlier one of this ask with the same observation; the others go to `asked`.

    `table` int32 [power of two] is an open-addressing hash table of this ask's leaves, NONE where empty.
    """
    count = 0
    mask = np.uint64(table.shape[0] - 1)
    for i in range(misses.shape[0]):
        leaf = misses[i]
        place = leaves[leaf].hash & mask
        while table[place] != NONE and not same_bytes(leaf_rows[table[place]], leaf_rows[leaf]):
            place = (place + np.uint64(1)) & mask
        if table[place] == NONE:
            table[place] = leaf
            asked[count] = leaf
            count += 1
        else:
            leaves[leaf].state = MERGED
            leaves[leaf].merged = leaves[table[place]].merged
            leaves[table[place]].merged = leaf
    return count
