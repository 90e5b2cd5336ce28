"""A mark remembers which games there were, so that the new ones can be told later.

It holds what names each game (run, game spec, index, seed), not counts, times or places: it goes on being right when
runs are resumed, logs are repaired, compressed or renamed, folders moved, and old games deleted. 22 bytes a game.
"""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import numpy as np

from grove.common.errors import RecordError
from grove.records.files import read_whole, reason
from grove.records.scan import NameRows, Survey, first_of_each

FORMAT = 1
_LARGEST = 4 << 30


def write_mark(path: Path, survey: Survey) -> None:
    """Remember all games of `survey` in the file `path`, which is replaced at once. Raises RecordError."""
    games = {
        spec: {run: base64.b64encode(rows.astype("<u8").tobytes()).decode() for run, rows in runs.items()}
        for spec, runs in survey.games.items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="ascii") as file:
            json.dump({"grove_mark": FORMAT, "time": round(time.time(), 3), "games": games}, file)
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
    known = _read_mark(path)
    return {
        spec: sum(_fresh(rows, known.get(spec, {}).get(run)) for run, rows in runs.items())
        for spec, runs in survey.games.items()
    }


def _fresh(rows: NameRows, known: NameRows | None) -> int:
    """Return how many of the distinct `rows` are not in `known`."""
    if known is None:
        return len(rows)
    both = np.concatenate([known, rows])
    new = np.arange(len(both)) >= len(known)
    order = np.lexsort((new, both[:, 1], both[:, 0]))
    return int((first_of_each(both[order]) & new[order]).sum())


def _read_mark(path: Path) -> dict[str, dict[str, NameRows]]:
    try:
        content = json.loads(read_whole(path, _LARGEST))
        if not isinstance(content, dict) or content.get("grove_mark") != FORMAT:
            raise ValueError(f"it is no mark of format {FORMAT}")
        return {spec: {run: _rows(text) for run, text in runs.items()} for spec, runs in content["games"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {reason(error)}" if isinstance(error, KeyError) else reason(error)
        raise RecordError(f"the mark {path} cannot be read: {why}; name another, or remove it to start anew") from error


def _rows(text: str) -> NameRows:
    return np.frombuffer(base64.b64decode(text, validate=True), "<u8").astype(np.uint64).reshape(-1, 2)
