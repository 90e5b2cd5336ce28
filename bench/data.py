"""How fast `grove data` reads: lines a second of one core for count, check and stats, and for counting compressed logs.

    python -m grove.bench.data RUN
    python -m grove.bench.data RUN --lines 100000 --out data.json

RUN is a run folder with games. They are written again, with other indices and seeds, to one log of so many lines in a
temporary folder, by the encoder that writes records. A compressed log holds each game only once, for repeated ones
would compress as no games do: let RUN hold thousands. The logs are then read from memory, as far as the system keeps
them there, in processor time and by the clock. Needs the package zstandard (`grove-selfplay[data]`).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from grove.bench.core.result_file import write_result
from grove.bench.core.rounds import Spread
from grove.common.rng import derive
from grove.records.files import FoundFiles, compress, find_files
from grove.records.record import GameRecord, encode, read_folder
from grove.records.scan import Survey, records, survey
from grove.records.stats import SpecStats

FULL_LINES = 100_000
"""Most lines for what reads every line in full."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """How to measure."""

    lines: int = 1_000_000
    """Lines to count; what reads every line in full gets 100,000 of them at most."""
    rounds: int = 3
    """How often each is measured, in turn."""
    out: Path | None = None
    """JSON file for all that was found."""


class Reading(NamedTuple):
    """Lines a second of one reading of a log."""

    of_a_core: float
    by_the_clock: float


def measure(run: Path, asked: Data) -> dict[str, Any]:
    """Return what the logs are like and the readings by what was done, the same for every round."""
    games = list(read_folder(run / "games"))
    if not games:
        raise SystemExit(f"{run} holds no games")
    with tempfile.TemporaryDirectory(prefix="grove-data-") as name:
        folder = Path(name)
        size = _write(games, folder / "all" / "a.jsonl", asked.lines)
        _write(games, folder / "part" / "a.jsonl", min(asked.lines, FULL_LINES))
        found, part = find_files([folder / "all"]), find_files([folder / "part"])
        gzip, zstd = (_compress(games, folder / kind, kind) for kind in ("gzip", "zstd"))
        work: dict[str, Callable[[], Survey]] = {
            "count": lambda: survey(found),
            "count of gzip": lambda: survey(gzip),
            "count of zstd": lambda: survey(zstd),
            "check": lambda: survey(part, in_full=True),
            "stats": lambda: _stats(survey(part)),
        }
        readings: dict[str, list[Reading]] = {what: [] for what in work}
        for _ in range(asked.rounds):
            for what, read in work.items():
                readings[what].append(_measure(what, read))
    logs = {"lines": asked.lines, "bytes_a_line": size / asked.lines, "different_games": len(games)}
    return {"logs": logs, "readings": readings}


def _write(games: Sequence[GameRecord], path: Path, lines: int) -> int:
    """Write a log of so many lines and return its bytes."""
    path.parent.mkdir()
    with path.open("wb") as file:
        for index, game in enumerate(islice(cycle(games), lines)):
            file.write(encode(replace(game, index=index, seed=int(derive(np.uint64(1), index)))))
    return path.stat().st_size


def _compress(games: Sequence[GameRecord], folder: Path, kind: str) -> FoundFiles:
    """Write a compressed log of all games, each once, and return what lies in its folder."""
    folder.mkdir()
    with (folder / "a.jsonl").open("wb") as raw, compress(raw, kind) as log:
        for index, game in enumerate(games):
            log.write(encode(replace(game, index=index)))
    return find_files([folder])


def _stats(found: Survey) -> Survey:
    stats = SpecStats()
    for game in records(found, lambda problem: sys.exit(str(problem))):
        stats.add(game.record, None)
    return found


def _measure(name: str, read: Callable[[], Survey]) -> Reading:
    clock, processor = time.perf_counter(), time.process_time()
    found = read()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    lines = sum(log.lines for log in found.logs)
    if found.total != lines:
        raise SystemExit(f"{name} found {found.total:,} games in {lines:,} lines")
    return Reading(lines / processor, lines / clock)


def _rates(readings: list[Reading]) -> dict[str, Any]:
    """Return medians with the lowest and highest value, and every reading."""
    return {
        "lines_per_second_of_a_core": Spread.of([one.of_a_core for one in readings])._asdict(),
        "lines_per_second_by_the_clock": Spread.of([one.by_the_clock for one in readings])._asdict(),
        "readings": [one._asdict() for one in readings],
    }


def main() -> None:
    """Measure, print, keep."""
    run, asked = tyro.cli(tuple[tyro.conf.Positional[Path], Data], config=(tyro.conf.OmitArgPrefixes,))
    found = measure(run, asked)
    rates = {what: _rates(readings) for what, readings in found["readings"].items()}
    logs = found["logs"]
    print(f"{logs['lines']:,} lines of {logs['bytes_a_line']:,.0f} bytes, {logs['different_games']:,} different games")
    for what, rate in rates.items():
        core, clock = rate["lines_per_second_of_a_core"], rate["lines_per_second_by_the_clock"]
        spread = f"({core['low']:,.0f}..{core['high']:,.0f})"
        print(f"{what}: {core['median']:,.0f} lines/s of a core {spread}, {clock['median']:,.0f} by the clock")
    if asked.out:
        write_result(asked.out, {"logs": logs, **rates})


if __name__ == "__main__":
    main()
