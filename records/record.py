"""Game records: one finished game is one JSON line, complete in itself, in the log of the worker that played it.

    {"schema":1,"game":"connect_four","index":7,"seed":...,"moves":[3,...],"visits":[[[0,12],[3,88]],null,...],
     "values":[[0.12,-0.12],null,...],"models":["9f3c...",null,...],"utilities":[1.0,-1.0],"status":"finished",
     "seconds":4.2,"crc32":...}

`crc32` is zlib.crc32 of the line's bytes before `,"crc32"`, so a torn or damaged line is noticed without a schema.
Logs are append only. A line that cannot be used is skipped and reported, never fatal. States are rebuilt by replay.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from grove.common.errors import LineError, RecordError
from grove.records.files import LOG_NAMES, LineReader

SCHEMA = 1
"""Version of the line's layout; a reader refuses lines of a later one."""

STATUSES = ("finished", "resigned", "timeout")
DIGITS = 4
"""Decimals kept of root values: far below the noise of a search, and a third of the bytes of full floats."""

# Not looking for circular lists saves a third of the time.
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)
_CRC_KEY = b',"crc32":'
_TAIL = re.compile(rb',"crc32":(\d{1,10})\}\n?\Z')
_TAIL_BYTES = len(b',"crc32":4294967295}\n')
_NUMBER = rb"(0|[1-9][0-9]{0,19})"
# Printable ASCII only: what JSON escapes, or refuses, is left to its parser.
_BEGIN = re.compile(rb'\{"schema":1,"game":"([ !#-\[\]-~]{0,1000})","index":').match
_NUMBERS = re.compile(_NUMBER + b',"seed":' + _NUMBER + b",").match
LARGEST_INDEX = (1 << 63) - 1
LARGEST_SEED = (1 << 64) - 1
LARGEST_MOVE = (1 << 31) - 1
LONGEST_SPEC = 1000
"""Characters of a game spec."""
_FIELDS = ("schema", "game", "index", "seed", "moves", "visits", "values", "models", "utilities", "status", "seconds")
_groups: Callable[[Any], tuple[bytes, ...]] = re.Match.groups
_PER_MOVE = ("visits", "values", "models")


@dataclass(frozen=True, slots=True, kw_only=True)
class GameRecord:
    """One finished game. Lists named per move are as long as `moves`; `None` stands where no search was made."""

    game: str
    """Canonical game spec, e.g. "hex:size=7"."""
    index: int
    """Game index within the run, from 0."""
    seed: int
    """The game's own uint64 key, derived from (run seed, index); it is what `Game.initial` was given."""
    moves: list[int]
    """Action numbers in order."""
    visits: list[list[list[int]] | None]
    """Per move: [action, count] pairs of the root's visited actions, or None where the move was forced."""
    values: list[list[float] | None]
    """Per move: the root's value for each absolute seat, P floats in [-1, 1], kept to `DIGITS` decimals."""
    models: list[str | None]
    """Per move: content hash of the model that answered; of all that did, joined by "+", where one replaced another in
    mid-search. A plain list, so that it lines up with `moves`."""
    utilities: list[float]
    """The game's result for each absolute seat, P floats in [-1, 1]."""
    status: str
    """"finished", "resigned" or "timeout" (the cap on moves was reached before the rules decided)."""
    seconds: float
    """Wall time from the game's first ask to its last move."""
    schema: int = SCHEMA
    """Version of the layout."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keys of the line, such as the optional per-move lists `target`, `prior`, `q`, `kind`."""


class Problem(NamedTuple):
    """A line that was skipped while reading."""

    path: Path
    line: int
    """Line number from 1; 0 when the file itself could not be read."""
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class LogContents(NamedTuple):
    """What one log holds."""

    records: list[GameRecord]
    problems: list[Problem]


class Finished(NamedTuple):
    """Which games of a folder are done."""

    indices: set[int]
    problems: list[Problem]
    duplicates: list[int]
    """Indices that more than one line claims, ascending."""


# -- one line ------------------------------------------------------------------------------------------------------


def encode(record: GameRecord) -> bytes:
    """Return the record as one line, newline included.

    Raises RecordError when the record holds what JSON cannot, such as NaN or numpy scalars.
    """
    values = [None if v is None else [round(x, DIGITS) for x in v] for v in record.values]
    body = {
        "schema": record.schema,
        "game": record.game,
        "index": record.index,
        "seed": record.seed,
        "moves": record.moves,
        "visits": record.visits,
        "values": values,
        "models": record.models,
        "utilities": record.utilities,
        "status": record.status,
        "seconds": round(record.seconds, DIGITS),
        **record.extra,
    }
    try:
        text = _JSON.encode(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"game {record.index} cannot be written as JSON: {error}") from error
    head = text[:-1].encode("ascii")
    return head + _CRC_KEY + b"%d}\n" % zlib.crc32(head)


def decode_line(line: bytes) -> GameRecord:
    """Return the record in `line` (with or without its newline).

    Raises LineError when the line is torn, damaged, of a later schema or not a game record.
    """
    _check_crc(line)
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LineError("invalid", f"not JSON although the checksum fits: {error}") from error
    del data["crc32"]
    _check_fields(data)
    return GameRecord(**{key: data.pop(key) for key in _FIELDS}, extra=data)


class Heads(NamedTuple):
    """What names the games of some lines, all of one spec."""

    game: str
    indices: list[int]
    seeds: list[int]


def read_head(line: bytes) -> tuple[str, int, int]:
    """Return game spec, index and seed of the game in `line`, with or without its newline; the checksum is verified.

    JSON is parsed only where the line is not as `encode` writes it. Raises LineError.
    """
    heads = written_heads([line if line.endswith(b"\n") else line + b"\n"])
    if heads is None:
        record = decode_line(line)
        return record.game, record.index, record.seed
    return heads.game, heads.indices[0], heads.seeds[0]


def written_heads(lines: Sequence[bytes]) -> Heads | None:
    """Return what names the games of `lines`, newlines included, which begin and end as `encode` writes them.

    None where one of them does not, where its checksum does not fit, where they are of several specs, or where there
    are none. Made for millions of lines: every step is one call that loops in C over them all.
    """
    first = _BEGIN(lines[0]) if lines else None
    if first is None or not all(map(bytes.startswith, lines, repeat(first[0]))):
        return None
    numbers = list(map(_NUMBERS, lines, repeat(first.end())))
    if not all(numbers):
        return None
    heads, _, tails = zip(*map(bytes.rpartition, lines, repeat(_CRC_KEY)), strict=True)
    if tails != tuple(map(b"%d}\n".__mod__, map(zlib.crc32, heads))):
        return None
    indices, seeds = (list(map(int, texts)) for texts in zip(*map(_groups, numbers), strict=True))
    if max(indices) > LARGEST_INDEX or max(seeds) > LARGEST_SEED:
        return None
    return Heads(first[1].decode("ascii"), indices, seeds)


def _check_crc(line: bytes) -> None:
    tail = _TAIL.search(line, max(0, len(line) - _TAIL_BYTES))  # not from the start: lines are long
    if tail is None:
        raise LineError("torn", "torn line: it does not end in its checksum (the writer was stopped in mid-write)")
    if zlib.crc32(memoryview(line)[: tail.start()]) != int(tail[1]):
        raise LineError("damaged", "damaged line: the checksum does not fit")


def _check_fields(data: dict[str, Any]) -> None:
    schema = data.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise LineError("later", f"schema {schema}, but this Grove reads {SCHEMA}; use the Grove that wrote it")
    missing = [key for key in _FIELDS if key not in data]
    if missing:
        raise LineError("invalid", f"not a game record: {', '.join(missing)} missing")
    if type(schema) is not int or schema != SCHEMA:
        raise LineError("invalid", f"schema must be {SCHEMA}")
    if data["status"] not in STATUSES:
        raise LineError("invalid", f"status {_short(data['status'])} is none of {', '.join(STATUSES)}")
    if not all(isinstance(data[key], list) for key in ("moves", "utilities", *_PER_MOVE)):
        raise LineError("invalid", "moves, utilities, visits, values and models must be lists")
    uneven = [key for key in _PER_MOVE if len(data[key]) != len(data["moves"])]
    if uneven:
        entries = f"one entry for each of the {len(data['moves'])} moves"
        raise LineError("invalid", f"{', '.join(uneven)} must hold {entries}")
    if not isinstance(data["game"], str) or len(data["game"]) > LONGEST_SPEC:
        raise LineError("invalid", f"game must be text of at most {LONGEST_SPEC} characters")
    _check_numbers([data["index"]], LARGEST_INDEX, "index")
    _check_numbers([data["seed"]], LARGEST_SEED, "seed")
    _check_numbers(data["moves"], LARGEST_MOVE, "moves")


def _check_numbers(numbers: list[Any], largest: int, name: str) -> None:
    if not all(type(n) is int and 0 <= n <= largest for n in numbers):
        raise LineError("invalid", f"{name} must be whole numbers from 0 to {largest}")


def _short(value: object) -> str:
    """Return `value` for an error text, whatever it is and however large."""
    text = repr(value[:40]) if isinstance(value, str) else f"({type(value).__name__})"
    return f"{text}..." if isinstance(value, str) and len(value) > 40 else text


# -- reading -------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> LogContents:
    """Return the games of one log and the lines that had to be skipped."""
    problems: list[Problem] = []
    return LogContents(list(_decode_all(Path(path), problems)), problems)


def read_folder(folder: Path, problems: list[Problem] | None = None) -> Iterator[GameRecord]:
    """Yield the games of all logs in `folder`, log by log; skipped lines are appended to `problems`."""
    skipped = [] if problems is None else problems
    for path in log_paths(folder):
        yield from _decode_all(path, skipped)


def finished_indices(folder: Path) -> Finished:
    """Return which game indices the logs in `folder` hold; lines are read as `read_head` does.

    Raises RecordError when a log cannot be read to its end: its games would be played again.
    """
    indices: set[int] = set()
    duplicates: set[int] = set()
    problems: list[Problem] = []
    for path in log_paths(folder):
        for number, line in _lines_of(path, problems):
            try:
                index = read_head(line)[1]
            except RecordError as error:
                problems.append(Problem(path, number, str(error)))
                continue
            (duplicates if index in indices else indices).add(index)
    for problem in problems:
        if not problem.line:
            remedy = "make it readable, or move it away and have them played again"
            raise RecordError(f"which games are done is not known: {problem.path} {problem.text}; {remedy}")
    return Finished(indices, problems, sorted(duplicates))


def log_paths(folder: Path) -> list[Path]:
    """Return the game logs in `folder`, compressed ones too, sorted; none when there is no such folder."""
    return sorted(path for path in Path(folder).glob("*.jsonl*") if path.name.endswith(LOG_NAMES))


def indices_from(path: Path, start: int) -> tuple[list[int], int]:
    """Return the games of the log at `path` from byte `start` on, and the bytes read so far; the rest is skipped."""
    found: list[int] = []
    try:
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                with suppress(RecordError):
                    found.append(read_head(line)[1])
    except OSError:  # there is no log, or no reading it: a start of the same run will see what it holds
        pass
    return found, start


def _decode_all(path: Path, problems: list[Problem]) -> Iterator[GameRecord]:
    for number, line in _lines_of(path, problems):
        try:
            yield decode_line(line)
        except RecordError as error:
            problems.append(Problem(path, number, str(error)))


def _lines_of(path: Path, problems: list[Problem]) -> Iterator[tuple[int, bytes]]:
    try:
        for first, lines in LineReader(path).blocks():
            if lines is None:
                problems.append(Problem(path, first, "too long to be a game"))
            else:
                yield from enumerate(lines, first)
    except RecordError as error:
        problems.append(Problem(path, 0, str(error)))
