"""py-spy beside a running pool: flame graphs, and who holds the interpreter lock; without it, the reason in words."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

RATE = 100
"""Samples a second; each one stops the process for about a millisecond."""
_END_S = 30.0
"""Longest wait for py-spy to write its file once its time is over."""
_THREAD = re.compile(r"^thread \(?([^):;]*)\)?(?:: )?([^;]*)")


@dataclass
class Sampled:
    """What py-spy found in one slice, or why it found nothing."""

    files: dict[str, str] = field(default_factory=dict)
    """Process (`worker`, `server`) -> name of its file."""
    faults: dict[str, str] = field(default_factory=dict)
    """Process -> why there is none."""


def find_py_spy() -> str | None:
    """Return the program: beside this Python, else on the path; None where it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


class Sampling:
    """Recordings of several processes that run together; started before the slice, ended after it."""

    def __init__(self, program: str, processes: Mapping[str, int], folder: Path, seconds: int, gil: bool) -> None:
        """`gil`: count who holds the interpreter lock, as text, instead of drawing flame graphs."""
        self._folder, self._kind = folder, "gil" if gil else "flame"
        self._running: dict[str, tuple[Path, subprocess.Popen[str]]] = {}
        for name, number in processes.items():
            path = folder / (f"gil-{name}.txt" if gil else f"flame-{name}.svg")
            form = ("--gil", "--format", "raw") if gil else ("--format", "flamegraph")
            command = [program, "record", "--pid", str(number), "--duration", str(seconds), "--rate", str(RATE)]
            command += [*form, "--threads", "--output", str(path)]
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            self._running[name] = path, subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]

    def end(self) -> Sampled:
        """Wait until all have written their files."""
        found = Sampled()
        for name, (path, process) in self._running.items():
            try:
                said = process.communicate(timeout=_END_S)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                said = process.communicate()[1] + f"\nit did not end within {_END_S:.0f} s"
            if process.returncode == 0 and path.exists():
                found.files[name] = path.name
            else:
                found.faults[name] = _last_line(said)
        return found

    def kill(self) -> None:
        """End what is still running, when the pool has failed meanwhile."""
        for _, process in self._running.values():
            with suppress(OSError):
                process.kill()
            process.communicate()


def gil_shares(text: str, seconds: float) -> dict[str, float]:
    """Return thread -> share of the time in which it held the interpreter lock, from py-spy's raw text."""
    held: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        thread = _THREAD.match(stack)
        if count.isdigit():
            held[(thread[2] or thread[1]) if thread else "main"] += int(count)
    return {name: count / (RATE * seconds) for name, count in held.most_common()}


def _last_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if "rror" in line or "ermission" in line), lines[-1] if lines else "")
    return reason.removeprefix("Error: ") or "py-spy ended without a word"
