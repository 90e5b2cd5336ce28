"""What a game record promises beyond its layout, checked without the rules of its game."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

from grove.common.errors import LineError
from grove.records.record import LARGEST_MOVE, GameRecord, decode_line

LONGEST_NAME = 200
"""Characters of a model's name; content hashes have 16."""
DEEPEST = 32
"""Nesting of what a record's further keys hold; Blob's scores have 2."""
LONGEST_S = 1e9
_NUMBERS = {int, float}
_ONE = 1 + 1e-9


def read_record(line: bytes) -> GameRecord:
    """Return the record in `line` after checking everything about it. Raises LineError."""
    try:
        record = decode_line(line)
    except LineError as error:
        raise named(error, line) from error
    check_record(record)
    return record


def named(error: LineError, line: bytes) -> LineError:
    """Return the error of `line`, or a fitting one where the line is JSON that never was a game record."""
    if error.kind != "torn" or not line.lstrip().startswith(b"{"):
        return error
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return error
    keys = ", ".join(key[:20] for key in list(content)[:5])
    return LineError("foreign", f"no game record of Grove: it has no checksum (keys {keys or 'none'})")


def check_record(record: GameRecord) -> None:
    """Raise LineError when the record holds what no search and no game can give."""
    seats = len(record.utilities)
    if not seats or not _are_utilities([record.utilities], seats):
        raise LineError("invalid", "utilities must be one number in -1..1 for each seat")
    if not _are_utilities([values for values in record.values if values is not None], seats):
        raise LineError("invalid", f"values must be null or {seats} numbers in -1..1 for each move")
    if not _are_visits([visits for visits in record.visits if visits is not None]):
        raise LineError("invalid", "visits must be null or a list of [action, count] for each move")
    if not all(model is None or (type(model) is str and len(model) <= LONGEST_NAME) for model in record.models):
        raise LineError("invalid", f"models must be null or text of at most {LONGEST_NAME} characters for each move")
    if type(record.seconds) not in _NUMBERS or not 0 <= record.seconds <= LONGEST_S:
        raise LineError("invalid", f"seconds must be a number in 0..{LONGEST_S:.0e}")
    if _depth_exceeds(record.extra, DEEPEST):
        raise LineError("invalid", f"further keys are nested deeper than {DEEPEST} times")


# Whole games at once, in calls that loop in C: a record has hundreds of numbers.


def _are_utilities(rows: list[Any], seats: int) -> bool:
    if not _are_lists(rows, seats):
        return False
    numbers = list(chain.from_iterable(rows))
    if not set(map(type, numbers)) <= _NUMBERS:
        return False
    return all(-_ONE <= number <= _ONE for number in numbers)  # false for NaN


def _are_visits(moves: list[Any]) -> bool:
    if not set(map(type, moves)) <= {list}:
        return False
    pairs = list(chain.from_iterable(moves))
    if not _are_lists(pairs, 2):
        return False
    numbers = list(chain.from_iterable(pairs))
    return set(map(type, numbers)) <= {int} and min(numbers, default=0) >= 0 and max(numbers, default=0) <= LARGEST_MOVE


def _are_lists(rows: list[Any], length: int) -> bool:
    return set(map(type, rows)) <= {list} and set(map(len, rows)) <= {length}


def _depth_exceeds(value: Any, depth: int) -> bool:
    level = [value]
    while level and depth >= 0:
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
        level = [item for item in level if isinstance(item, dict | list)]
        depth -= 1
    return bool(level)
