"""Batch sizes a lane computes. A batch is padded to the next one; its last is the top bucket. Torch-free."""

from __future__ import annotations

from bisect import bisect_left

CPU_READY = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""CPU without compilation: a bucket costs only its warming, so many, at most a quarter of padding from 16 rows on."""
CPU_COMPILED = (16, 64, 128, 256, 512)
"""CPU with torch.compile: each bucket is seconds of compilation; few batches are smaller than 16 rows, none is lost."""
CUDA_GRAPHS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
"""One CUDA graph each: memory and capture time, so fewer than on CPU."""


def buckets_up_to(max_batch: int, ladder: tuple[int, ...], deterministic: bool = False) -> tuple[int, ...]:
    """Return the rungs of `ladder` below `max_batch` rows and `max_batch` itself, ascending.

    Beyond the end of the ladder the sizes double. Deterministic runs have `max_batch` alone: rows are bitwise equal at
    any position of one bucket, not across buckets.
    """
    if deterministic:
        return (max_batch,)
    rungs = list(ladder)
    while rungs[-1] < max_batch:
        rungs.append(2 * rungs[-1])
    return (*(rung for rung in rungs if rung < max_batch), max_batch)


def bucket_for(rows: int, buckets: tuple[int, ...]) -> int:
    """Return the smallest bucket that holds `rows` rows; `rows` itself beyond the top bucket."""
    place = bisect_left(buckets, rows)
    return buckets[place] if place < len(buckets) else rows
