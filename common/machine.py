"""What this machine has: cores and memory that this process may use, GPUs, versions. Never imports torch."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import psutil

_ROOT = Path(__file__).resolve().parent.parent
_CGROUP = Path("/sys/fs/cgroup")


class Gpu(NamedTuple):
    """One NVIDIA GPU as its driver describes it."""

    name: str
    memory_bytes: int
    free_bytes: int
    driver: str


class Gpus(NamedTuple):
    """The GPUs of this machine; `problem` says why none could be listed, else it is empty."""

    devices: list[Gpu]
    problem: str


class TorchBuild(NamedTuple):
    """The installed torch; `cuda` is the CUDA version it was built with, or empty for a CPU build."""

    version: str
    cuda: str


def affinity_cores() -> int:
    """Return how many cores the scheduler may give this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota_cores() -> float:
    """Return the CPU quota of this process's control groups (v1 and v2) in cores, infinite when there is none."""
    quotas = [_quota_v2(folder / "cpu.max") for folder in _cgroup_folders()]
    return min([*quotas, _quota_v1(_CGROUP / "cpu")])


def usable_cores() -> int:
    """Return the whole cores this process may use: affinity and quota, at least 1."""
    # 0.01: a quota of 2 cores written as 199900/100000 is meant as 2.
    return max(1, math.floor(min(float(affinity_cores()), quota_cores() + 0.01)))


def free_memory_bytes() -> int:
    """Return the bytes this process may still take: what the system has, within the control group's limit."""
    free = int(psutil.virtual_memory().available)
    for folder in _cgroup_folders():
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if limit is not None and used is not None:
            # Cached file pages count as used but are given back on demand.
            free = min(free, max(0, int(limit - used) + _reclaimable(folder)))
    return free


def gpus() -> Gpus:
    """Return the NVIDIA GPUs that this process may use, asked of the driver through NVML; never raises."""
    try:
        import pynvml
    except ImportError:
        return Gpus([], "the package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Gpus([], f"no NVIDIA driver answers ({error})")
    try:
        return Gpus([_gpu(pynvml, handle) for handle in visible_gpus(pynvml)], "")
    except pynvml.NVMLError as error:
        return Gpus([], f"the NVIDIA driver failed ({error})")
    finally:
        pynvml.nvmlShutdown()


def torch_build() -> TorchBuild | None:
    """Return the installed torch's version and CUDA build without importing it, or None when it is absent."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
    spec = util.find_spec("torch")
    text = ""
    if spec is not None and spec.origin is not None:
        source = Path(spec.origin).with_name("version.py")
        text = source.read_text() if source.exists() else ""
    cuda = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return TorchBuild(version, cuda[1] if cuda else "")


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        names = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = None
    return names[1].strip() if names else platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """Return the machine and the versions as plain values, for run.json and reports."""
    quota = quota_cores()
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "cores_logical": os.cpu_count() or 1,
        "cores_quota": quota if math.isfinite(quota) else None,
        "memory_bytes": int(psutil.virtual_memory().total),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.memory_bytes, "driver": gpu.driver} for gpu in gpus().devices],
        "python": platform.python_version(),
        **{name: package_version(name) for name in ("numpy", "numba", "torch")},
    }


def package_version(name: str) -> str | None:
    """Return the installed version of distribution `name` without importing it, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def visible_gpus(nvml: Any) -> list[Any]:
    """Return NVML's handles of the GPUs that CUDA shows this process, in the order of CUDA_VISIBLE_DEVICES.

    Raises what `nvml` raises when the driver fails.
    """
    count, wanted = nvml.nvmlDeviceGetCount(), os.environ.get("CUDA_VISIBLE_DEVICES")
    found = []
    for name in map(str, range(count)) if wanted is None else map(str.strip, wanted.split(",")):
        if name.isdecimal() and int(name) < count:
            found.append(nvml.nvmlDeviceGetHandleByIndex(int(name)))
        elif name.startswith(("GPU-", "MIG-")):
            found.append(nvml.nvmlDeviceGetHandleByUUID(name))
        else:  # CUDA shows those before the first that it does not know
            break
    return found


def _gpu(pynvml: Any, handle: Any) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return Gpu(str(name), int(memory.total), int(memory.free), str(pynvml.nvmlSystemGetDriverVersion()))


def _cgroup_folders() -> list[Path]:
    """Return the cgroup v2 folders from this process's own up to the root; each may set a limit."""
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return [_CGROUP]
    folder = _CGROUP / own.strip().lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(_CGROUP))]


def _quota_v2(path: Path) -> float:
    try:
        quota, period = path.read_text().split()
        return float(quota) / float(period) if quota != "max" else math.inf
    except (OSError, ValueError):
        return math.inf


def _quota_v1(folder: Path) -> float:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else math.inf


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _reclaimable(folder: Path) -> int:
    try:
        found = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) if found else 0


def provenance() -> dict[str, Any]:
    """Return what a figure needs beside it: Grove's version, its git commit (None outside a checkout), the machine."""
    commit = _git("rev-parse", "HEAD")
    return {
        "version": package_version("grove-selfplay"),
        "commit": commit,
        "dirty": None if commit is None else bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": describe(),
    }


def _git(*arguments: str) -> str | None:
    """Return git's answer about Grove's own checkout, or None when there is none."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
