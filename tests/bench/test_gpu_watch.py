"""What is looked at of GPUs while something is measured; with what GPUs would say, for none need be there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from grove.bench.core.gpu_watch import NO_GPU, GpuWatch, merged
from grove.common.machine import visible_gpus
from grove.common.usage import GpuUse
from grove.workers.pool.sampler import gpus_used


class TwoGpus(GpuUse):
    """What two GPUs would say."""

    def look(self) -> list[dict[str, float | None]] | None:
        known: dict[str, float | None] = {"use": 0.5, "memory_mb": 100.0, "power_w": 300.0, "clock_mhz": 1500.0}
        return [known, {"use": 1.0, "memory_mb": None, "power_w": 200.0, "clock_mhz": None}]


SEEN = {
    "gpu_percent_mean": 75.0,
    "gpu_percent_max": 75.0,
    "gpu_memory_mb_mean": 100.0,
    "gpu_memory_mb_max": 100.0,
    "gpu_power_w_mean": 500.0,
    "gpu_clock_mhz_mean": 1500.0,
}


def test_gpus_are_looked_at() -> None:
    with GpuWatch(TwoGpus(0)) as watch:
        pass
    assert watch.figures() == SEEN


def test_watches_are_merged_by_mean_and_maximum_and_without_a_gpu_all_is_none() -> None:
    with GpuWatch(GpuUse(0)) as watch:
        pass
    assert watch.figures() == NO_GPU == merged([]) == merged([NO_GPU, NO_GPU])
    once = {**SEEN, "gpu_percent_mean": 25.0, "gpu_percent_max": 80.0, "gpu_power_w_mean": None}
    assert merged([SEEN, once, NO_GPU]) == {**SEEN, "gpu_percent_mean": 50.0, "gpu_percent_max": 80.0}


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [0, 1, 2]),
        ("2, 0", [2, 0]),
        ("", []),
        ("-1", []),
        ("1,9,0", [1]),
        ("GPU-8932f937,1", ["GPU-8932f937", 1]),
        ("MIG-1", ["MIG-1"]),
    ],
)
def test_only_gpus_that_cuda_shows_are_looked_at(
    visible: str | None, found: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = SimpleNamespace(
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda name: name,
    )
    assert visible_gpus(nvml) == found


@pytest.mark.parametrize(
    ("device", "evaluator", "wanted", "used"),
    [
        ("cuda:0", "server", "auto", 2),
        ("cpu", "server", "auto", 0),
        (None, "local", "auto", None),
        (None, "direct", "cpu", 0),
        (None, "rollout", "auto", 0),
    ],
)
def test_a_pool_uses_the_gpus_of_its_lanes(device: str | None, evaluator: str, wanted: str, used: int | None) -> None:
    plan = SimpleNamespace(evaluator=evaluator, network=SimpleNamespace(device=wanted))
    ready = {} if device is None else {"backend": {"device": device}, "lanes": 2}
    pool: Any = SimpleNamespace(plan=plan, server_ready=ready)
    assert gpus_used(pool) == used
