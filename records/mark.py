"""A mark remembers which games there were, so that the new ones can be told later.

It holds what names each game (run, game spec, index, seed), not counts, times or places: it goes on being right when
runs are resumed, logs are repaired, compressed or renamed, folders moved, and old games deleted. 22 bytes a game.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from grove.common.errors import RecordError
from grove.records.files import read_whole, reason
from grove.records.scan import NameRows, Survey, first_of_each

_LARGEST = 4 << 30


class _Mark(msgspec.Struct):
    grove_mark: Literal[1]
    games: dict[str, dict[str, bytes]]
    """Game spec -> run's identity -> index and seed of each game, little-endian uint64; base64 in the file."""
    time: float = 0.0


def write_mark(path: Path, survey: Survey) -> None:
    """Remember all games of `survey` in the file `path`, which is replaced at once. Raises RecordError."""
    games = {
        spec: {run: rows.astype("<u8").tobytes() for run, rows in runs.items()} for spec, runs in survey.games.items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(_Mark(1, games, round(time.time(), 3))))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RecordError(f"the mark {path} cannot be written: {reason(error)}; name a file that can be") from error


def new_games(path: Path, survey: Survey) -> dict[str, int]:
    """Return how many games of each spec of `survey` the mark `path` does not know; all when there is no such file.

    Raises RecordError when the mark cannot be read.
    """
    known: dict[str, dict[str, NameRows]] = {}
    try:
        mark = msgspec.json.decode(read_whole(path, _LARGEST), type=_Mark)
        known = {spec: {run: _rows(rows) for run, rows in runs.items()} for spec, runs in mark.games.items()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        why = f"the mark {path} cannot be read: {reason(error)}"
        raise RecordError(f"{why}; name another, or remove it to start anew") from error
    return {
        spec: sum(_fresh(rows, known.get(spec, {}).get(run)) for run, rows in runs.items())
        for spec, runs in survey.games.items()
    }


def _rows(content: bytes) -> NameRows:
    return np.frombuffer(content, "<u8").astype(np.uint64).reshape(-1, 2)


def _fresh(rows: NameRows, known: NameRows | None) -> int:
    """Return how many of the distinct `rows` are not in `known`."""
    if known is None:
        return len(rows)
    both = np.concatenate([known, rows])
    new = np.arange(len(both)) >= len(known)
    order = np.lexsort((new, both[:, 1], both[:, 0]))
    return int((first_of_each(both[order]) & new[order]).sum())
