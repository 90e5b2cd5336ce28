"""`grove doctor`: what this machine offers and what to do about each thing that is missing. No root, no network."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

import psutil
from rich.text import Text

from grove.bench.core.probe import Probe, burn_probe
from grove.commands.console import text_console
from grove.common import kernels, machine
from grove.common.words import plural

Status = Literal["ok", "warn", "fail"]

SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103
"""Longest path of a Unix socket in bytes (sun_path less its closing zero)."""
_SOCKET_NAME = 40
_GIB = 1 << 30
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_EAGER = "; without it networks run eager, at about half the speed"


class Check(NamedTuple):
    """One finding. `remedy` is empty when nothing is to be done."""

    name: str
    status: Status
    value: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say what this machine offers and what to do about each thing that is missing. No root, no network."""


def doctor(settings: Doctor) -> int:
    """Look and print; returns the exit status."""
    render(run_checks(), sys.stdout)
    return 0


def run_checks() -> list[Check]:
    """Look at everything Grove needs from the machine and return the findings in reading order; takes a second."""
    gpus = machine.gpus()
    cache = kernels.cache_home() / "kernels"
    return [
        _cores(),
        judge_memory(machine.free_memory_bytes(), int(psutil.virtual_memory().total)),
        _gpu(gpus),
        judge_torch(machine.torch_build(), bool(gpus.devices)),
        _compiler(),
        _python_headers(),
        judge_limit("open files", _limit("RLIMIT_NOFILE"), 1024, "raise it in this shell: ulimit -n 4096"),
        judge_limit("processes", _limit("RLIMIT_NPROC"), 512, "raise it in this shell: ulimit -u 4096"),
        judge_socket_folder(Path(tempfile.gettempdir())),
        judge_writable("kernel cache", cache, "set XDG_CACHE_HOME to a folder you may write"),
        _disk(Path.cwd()),
    ]


def render(checks: list[Check], out: TextIO) -> None:
    """Write the findings to `out`, in colour when it is a terminal."""
    console = text_console(out)
    width = max(len(check.name) for check in checks)
    for check in checks:
        line = Text.assemble((f"{check.status:4}", _COLOURS[check.status]), f"  {check.name:{width}}  {check.value}")
        console.print(line)
        if check.remedy:
            console.print(Text(f"{'':{width + 8}}-> {check.remedy}", style="italic"))
    failed, warned = (sum(check.status == status for check in checks) for status in ("fail", "warn"))
    better = f"; {plural(warned, 'things')} could be better" if warned else ""
    fails = f"{failed} of {len(checks)} checks failed: Grove will not run as it is."
    console.print(f"\n{fails}" if failed else f"\nGrove can run here{better}.")


# -- cores, memory, devices ------------------------------------------------------------------------------------------


def _cores() -> Check:
    probe, allowed, quota = burn_probe(0.15), machine.affinity_cores(), machine.quota_cores()
    limit = f", quota {quota:g}" if math.isfinite(quota) else ""
    return judge_cores(probe, f"of {os.cpu_count()} ({machine.cpu_model()}; affinity {allowed}{limit})")


def judge_cores(probe: Probe, facts: str) -> Check:
    """Return the finding for a probe that ran on all usable cores; `facts` ends its value."""
    value = f"{probe.delivered_cores:.1f} delivered, {probe.cores} usable {facts}"
    if probe.delivered_cores < 0.8 * probe.cores:
        return Check("cores", "warn", value, "other work or the host takes cores: stop it, or ask for more")
    return Check("cores", "ok", value)


def judge_memory(free: int, total: int) -> Check:
    """Return the finding for so many bytes."""
    value = f"{free / _GIB:.1f} GiB free of {total / _GIB:.1f} GiB"
    if free < _GIB:
        return Check("memory", "fail", value, "close other programs or raise the container's limit: 1 GiB is the least")
    if free < 4 * _GIB:
        return Check("memory", "warn", value, "use small numbers of --workers and --games-per-worker")
    return Check("memory", "ok", value)


def _gpu(found: machine.Gpus) -> Check:
    if not found.devices:
        remedy = "Grove runs on the CPU; to use an NVIDIA GPU install its driver (nvidia-smi shows whether it works)"
        return Check("GPU", "warn", f"none: {found.problem or 'the driver lists no device'}", remedy)
    names = ", ".join(f"{gpu.name} ({gpu.free_bytes / _GIB:.0f} GiB free)" for gpu in found.devices)
    return Check("GPU", "ok", f"{names}; driver {found.devices[0].driver}")


def judge_torch(build: machine.TorchBuild | None, gpu: bool) -> Check:
    """Return the finding for the installed torch (None: absent) on a machine with or without a GPU."""
    if build is None:
        return Check("torch", "fail", "not installed", "run `make setup`, or install torch into this environment")
    value = f"{build.version}, {f'built for CUDA {build.cuda}' if build.cuda else 'CPU build'}"
    if gpu and not build.cuda:
        remedy = "this machine has a GPU: install a CUDA build (https://pytorch.org/get-started/locally)"
        return Check("torch", "warn", value, remedy)
    return Check("torch", "ok", value)


# -- what compiling a network takes ----------------------------------------------------------------------------------


def _compiler() -> Check:
    compiler = os.environ.get("CXX") or "g++"
    path = shutil.which(compiler)
    if path is None:
        remedy = f"install g++ (Debian: apt install g++){_EAGER}"
        return Check("C++ compiler", "warn", f"{compiler} not found", remedy)
    command, source = [path, "-fsyntax-only", "-x", "c++", "-"], "#include <vector>\nint main() { return 0; }\n"
    try:
        done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=30, check=False)
        failure = done.stderr.partition("\n")[0] or f"exit status {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        failure = str(error)
    if failure:
        return Check("C++ compiler", "warn", f"{path}: {failure}", f"reinstall g++ with libstdc++{_EAGER}")
    return Check("C++ compiler", "ok", path)


def _python_headers() -> Check:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if header.is_file():
        return Check("Python headers", "ok", str(header))
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
    remedy = f"install the headers (Debian: apt install {package}){_EAGER}"
    return Check("Python headers", "warn", f"{header} not found", remedy)


# -- limits, folders -------------------------------------------------------------------------------------------------


def _limit(name: str) -> float:
    """Return the soft limit, infinite where there is none."""
    import resource

    soft, _ = resource.getrlimit(getattr(resource, name))
    return math.inf if soft == resource.RLIM_INFINITY else float(soft)


def judge_limit(name: str, limit: float, enough: int, remedy: str) -> Check:
    """Return the finding for a limit of the system; `enough` serves 64 worker processes."""
    value = f"limit {limit:.0f}" if math.isfinite(limit) else "not limited"
    if limit < enough:
        return Check(name, "warn", f"{value}, 64 worker processes want {enough}", remedy)
    return Check(name, "ok", value)


def judge_socket_folder(folder: Path) -> Check:
    """Return the finding for the folder that local sockets are made in; one is bound for a moment to try."""
    name, longest = "socket folder", len(os.fsencode(folder)) + 1 + _SOCKET_NAME
    if longest > SOCKET_PATH_LIMIT:
        value = f"{folder} makes paths of {longest} bytes, the system takes {SOCKET_PATH_LIMIT}"
        return Check(name, "warn", value, "set TMPDIR to a shorter path, such as /tmp")
    try:
        with tempfile.TemporaryDirectory(prefix="grove-", dir=folder) as own, socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"{own}/s")
    except OSError as error:
        return Check(name, "fail", f"{folder}: {error}", "set TMPDIR to a folder you may write, on a local disk")
    return Check(name, "ok", str(folder))


def judge_writable(name: str, folder: Path, remedy: str) -> Check:
    """Return the finding for a folder that must take files; it is made when absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Check(name, "ok", str(folder))
    except OSError as error:
        return Check(name, "fail", f"{folder}: {error}", remedy)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    value = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _GIB:
        return Check("disk", "warn", value, "free some space or give --out on another disk; 100,000 games take 0.4 GiB")
    return Check("disk", "ok", value)
