"""How busy the GPUs are while something is measured; None everywhere where none is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Self

from grove.common.usage import GpuUse

PERIOD_S = 0.5
"""Seconds between two looks at the GPUs."""

Merge = Callable[[Iterable[float | None]], float | None]
GpuFigures = dict[str, float | None]
"""
gpu_percent_mean, gpu_percent_max      use in per cent, mean over the GPUs
gpu_memory_mb_mean, gpu_memory_mb_max  memory of all of them together
gpu_power_w_mean                       power in watts, all of them together
gpu_clock_mhz_mean                     clock of the multiprocessors, mean over the GPUs
"""


NO_GPU: GpuFigures = dict.fromkeys(
    (
        *("gpu_percent_mean", "gpu_percent_max", "gpu_memory_mb_mean", "gpu_memory_mb_max"),
        *("gpu_power_w_mean", "gpu_clock_mhz_mean"),
    )
)
"""Of a measurement without one."""


class GpuWatch:
    """Looks at the GPUs every `PERIOD_S` in a thread of its own, and at the end; does nothing where there is none."""

    def __init__(self, gpus: GpuUse) -> None:
        """`gpus`: where to look; closed at the end."""
        self._gpus = gpus
        self._seen: list[list[dict[str, float | None]]] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def figures(self) -> GpuFigures:
        """Return what was seen, None for what was not."""
        use = self._each("use", _mean)
        memory = self._each("memory_mb", _sum)
        return {
            "gpu_percent_mean": _mean(100 * share for share in use),
            "gpu_percent_max": max((100 * share for share in use), default=None),
            "gpu_memory_mb_mean": _mean(memory),
            "gpu_memory_mb_max": max(memory, default=None),
            "gpu_power_w_mean": _mean(self._each("power_w", _sum)),
            "gpu_clock_mhz_mean": _mean(self._each("clock_mhz", _mean)),
        }

    def __enter__(self) -> Self:
        if self._gpus.look() is not None:  # of the time before: not kept
            self._thread = threading.Thread(target=self._run, name="gpu-watch")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._gpus.close()

    def _run(self) -> None:
        while not self._over.wait(PERIOD_S):
            self._look()
        self._look()

    def _look(self) -> None:
        if (seen := self._gpus.look()) is not None:
            self._seen.append(seen)

    def _each(self, name: str, over: Merge) -> list[float]:
        """Return one figure of every look, over all GPUs."""
        return [value for look in self._seen if (value := over(gpu[name] for gpu in look)) is not None]


def merged(figures: Iterable[Mapping[str, float | None]]) -> GpuFigures:
    """Return the figures of several watches as one: means of means, and the largest of the largest."""
    every = list(figures)
    return {name: _largest_or_mean(name, [one.get(name) for one in every]) for name in NO_GPU}


def _largest_or_mean(name: str, values: list[float | None]) -> float | None:
    if name.endswith("_max"):
        return max((value for value in values if value is not None), default=None)
    return _mean(values)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
