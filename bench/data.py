"""How fast `grove data` reads: lines a second of one core for count, check and stats.

    python -m bench.data RUN [LINES]

RUN is a run folder with games. They are written again, with other indices and seeds, to one log of LINES lines (one
million by default) in a temporary folder, by the encoder that writes records. The log is then read from memory, as
far as the system keeps it there, in processor time and by the clock.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from common import machine
from common.rng import derive
from workers.record_files import find_files
from workers.record_scan import Survey, records, survey
from workers.record_stats import SpecStats
from workers.records import encode, read_folder

FULL_LINES = 100_000
"""Most lines for what reads every line in full."""


def main(arguments: list[str]) -> None:
    """Measure and print."""
    if not 1 <= len(arguments) <= 2:
        raise SystemExit("usage: python -m bench.data RUN [LINES]")
    lines = int(arguments[1]) if len(arguments) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="grove-data-") as name:
        folder = Path(name)
        print(f"{machine.usable_cores()} cores; {lines:,} lines", flush=True)
        _write(Path(arguments[0]), folder / "all" / "a.jsonl", lines)
        _write(Path(arguments[0]), folder / "part" / "a.jsonl", min(lines, FULL_LINES))
        found, part = find_files([folder / "all"]), find_files([folder / "part"])
        for _ in range(3):
            _measure("count", lambda: survey(found))
        _measure("check", lambda: survey(part, in_full=True))
        _measure("stats", lambda: _stats(survey(part)))


def _write(run: Path, path: Path, lines: int) -> None:
    games = list(read_folder(run / "games"))
    if not games:
        raise SystemExit(f"{run} holds no games")
    path.parent.mkdir()
    with path.open("wb") as file:
        for index, game in enumerate(islice(cycle(games), lines)):
            file.write(encode(replace(game, index=index, seed=int(derive(np.uint64(1), index)))))
    print(f"{path.stat().st_size / lines:,.0f} bytes a line, {len(games):,} different games", flush=True)


def _stats(found: Survey) -> Survey:
    stats = SpecStats()
    for game in records(found, lambda problem: sys.exit(str(problem))):
        stats.add(game.record, None)
    return found


def _measure(name: str, read: Callable[[], Survey]) -> None:
    clock, processor = time.perf_counter(), time.process_time()
    found = read()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    lines = sum(log.lines for log in found.logs)
    if found.total != lines:
        raise SystemExit(f"{name} found {found.total:,} games in {lines:,} lines")
    print(f"{name}: {lines / processor:,.0f} lines/s of a core, {lines / clock:,.0f} by the clock", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
