"""What a run takes of the machine: processor time and memory of its processes, and how busy the GPUs are.

A look at a process reads two small files of the system, a look at a GPU asks its driver; nothing is waited for, and no
process of the run is stopped or asked.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import psutil

from grove.common.machine import affinity_cores, quota_cores, visible_gpus

_NOT_BUSY = ("idle", "iowait", "steal", "guest", "guest_nice")
"""Kinds of processor time that nobody here uses. A guest's is in the user's already; what a host steals is lost."""


class CoreSeconds(NamedTuple):
    """Processor seconds of some cores since the system started, whoever used them."""

    busy: float
    idle: float


def core_seconds() -> CoreSeconds | None:
    """Return the seconds of the cores that this process may use, not of all cores of the machine.

    None where a CPU quota gives less than these cores: how busy they are does not tell what is left of the quota.
    """
    if quota_cores() + 0.01 < affinity_cores():
        return None
    times = [core._asdict() for core in psutil.cpu_times(percpu=True)]
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(len(times))
    if own[-1] >= len(times):  # cores that are off are not listed: which is which is not known
        return None
    mine = [times[number] for number in own]
    busy = sum(value for core in mine for name, value in core.items() if name not in _NOT_BUSY)
    return CoreSeconds(busy, sum(core["idle"] + core.get("iowait", 0.0) for core in mine))


class ProcessUse:
    """Cores and memory taken by groups of processes from one look to the next."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[psutil.Process, float]] = {}  # by number: process, its processor seconds
        self._looked = 0.0

    def look(self, groups: Mapping[str, Iterable[int]]) -> dict[str, dict[str, float | None]]:
        """Return `cpu_cores` and `memory_mb` of each group of process numbers.

        Cores are None at the first look and for a group of which nobody lives. Memory is what is resident; pages that
        processes share count in each.
        """
        now, first = time.monotonic(), not self._looked
        elapsed, self._looked = max(now - self._looked, 1e-9), now
        former, self._known = self._known, {}
        cores: dict[str, float | None] = {}
        memory: dict[str, float | None] = {}
        for name, numbers in groups.items():
            seen = [found for number in numbers if (found := self._one(number, former)) is not None]
            cores[name] = None if first or not seen else round(sum(busy for busy, _ in seen) / elapsed, 3)
            memory[name] = round(sum(size for _, size in seen) / 2**20, 1) if seen else None
        return {"cpu_cores": cores, "memory_mb": memory}

    def _one(self, number: int, former: Mapping[int, tuple[psutil.Process, float]]) -> tuple[float, int] | None:
        """Return processor seconds since the last look (all, of a process that is new) and resident bytes."""
        process, before = former.get(number, (None, 0.0))
        try:
            process = process or psutil.Process(number)
            with process.oneshot():
                times, size = process.cpu_times(), int(process.memory_info().rss)
        except psutil.Error:
            return None
        busy = float(times.user + times.system)
        self._known[number] = process, busy
        return max(busy - before, 0.0), size


class MachineUse:
    """How many of the cores that this process may use are taken, by anyone, from one look to the next."""

    def __init__(self) -> None:
        self._before: CoreSeconds | None = None
        self._looked = 0.0

    def look(self) -> float | None:
        """Return the busy cores, of this run and of all other programs; None at the first look and under a quota."""
        seconds, now = core_seconds(), time.monotonic()
        before, looked = self._before, self._looked
        self._before, self._looked = seconds, now
        if seconds is None or before is None:
            return None
        return round(max(seconds.busy - before.busy, 0.0) / max(now - looked, 1e-9), 3)


class GpuUse:
    """The NVIDIA GPUs in use, through NVML; without a driver there are none. `close` lets the driver go."""

    def __init__(self, most: int | None = None) -> None:
        """Look at the first `most` of those that CUDA shows this process, by default at all of them."""
        self._handles: list[Any] = []
        self._nvml: Any = None
        if most == 0:
            return
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # no package, no driver, a broken driver: then there is nothing to look at
            return
        self._nvml = pynvml
        with contextlib.suppress(pynvml.NVMLError):
            self._handles = visible_gpus(pynvml)[:most]

    def look(self) -> list[dict[str, float | None]] | None:
        """Return `use` (0..1), `memory_mb`, `power_w` and `clock_mhz` of each GPU, or None where there is none.

        What a GPU does not tell is None.
        """
        return [self._one(handle) for handle in self._handles] or None

    def close(self) -> None:
        """Let the driver go; closing twice is harmless."""
        nvml, self._nvml, self._handles = self._nvml, None, []
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def _one(self, handle: Any) -> dict[str, float | None]:
        nvml = self._nvml
        return {
            "use": self._asked(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            "memory_mb": self._asked(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20),
            "power_w": self._asked(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            "clock_mhz": self._asked(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        }

    def _asked(self, question: Callable[[], float]) -> float | None:
        try:
            return round(float(question()), 3)
        except self._nvml.NVMLError:
            return None


def peak_rss_mb() -> float:
    """Return this process's peak resident memory in MB (the present one where the system keeps no peak)."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    except ImportError:
        return float(psutil.Process().memory_info().rss) / 2**20
