"""What sampling costs is measured on a real pool; how much it is, is not for a test to say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from grove.bench.core.slices import WarmPool
from grove.bench.sampling import LEAST_PAIRS, Sampling, measure, warm_pool
from grove.common.errors import PoolError


def small_pool(folder: Path) -> WarmPool:
    pool = warm_pool("connect_four", Sampling(pool="process", workers=2), folder)
    return WarmPool("sampling", dataclasses.replace(pool.pool.plan, evaluator="test"))


def test_slices_with_and_without_looks_are_paired(tmp_path: Path) -> None:
    with small_pool(tmp_path) as warm:
        warm.start()
        cost = measure(warm, Sampling(seconds=2, slice_seconds=0.2, every=0.02))
    assert cost.pairs == LEAST_PAIRS
    assert cost.looks >= cost.pairs
    assert cost.look_cpu_s > 0
    assert cost.lost.low <= cost.lost.median <= cost.lost.high < 1


def test_too_few_pairs_are_no_figure(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="give more --seconds"):
        measure(small_pool(tmp_path), Sampling(seconds=2, slice_seconds=1))
