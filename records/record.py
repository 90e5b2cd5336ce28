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
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from grove.common.errors import LineError, RecordError
from grove.records.files import LOG_NAMES, LONGEST_LINE, LineReader, Problem

SCHEMA = 1
"""Version of the line's layout; a reader refuses lines of a later one."""
DIGITS = 4
"""Decimals kept of root values: far below the noise of a search, and a third of the bytes of full floats."""
LARGEST_INDEX, LARGEST_SEED, LARGEST_MOVE = (1 << 63) - 1, (1 << 64) - 1, (1 << 31) - 1
JOINT = "+"
"""Stands between the models of one decision, oldest first, in logs of version 0.1; now a move names the last one."""
DEEPEST = 32
"""Nesting of what a record's further keys hold; Blob's scores have 2."""

Status = Literal["finished", "resigned", "timeout"]
_Spec = Annotated[str, Meta(max_length=1000)]
_Whole = Annotated[int, Meta(ge=0)]
_Small = Annotated[int, Meta(ge=0, le=LARGEST_MOVE)]
_Pair = Annotated[list[_Small], Meta(min_length=2, max_length=2)]
_Unit = Annotated[float, Meta(ge=-1 - 1e-9, le=1 + 1e-9)]
_Units = Annotated[list[_Unit], Meta(min_length=1)]


class _Played(msgspec.Struct, kw_only=True):
    """What a line holds by name; the types are checked when it is read."""

    game: _Spec
    """Canonical game spec, e.g. "hex:size=7"."""
    index: _Whole
    """Game index within the run, from 0."""
    seed: _Whole
    """The game's own uint64 key, derived from (run seed, index); it is what `Game.initial` was given."""
    moves: list[_Small]
    """Action numbers in order."""
    visits: list[list[_Pair] | None]
    """Per move: [action, count] pairs of the root's visited actions, or None where the move was forced."""
    values: list[_Units | None]
    """Per move: the root's value for each absolute seat, P floats in [-1, 1], kept to `DIGITS` decimals."""
    models: list[Annotated[str, Meta(max_length=200)] | None]
    """Per move: content hash of the model that answered; of all that did, joined by "+", where one replaced another in
    mid-search. A plain list, so that it lines up with `moves`."""
    utilities: _Units
    """The game's result for each absolute seat, P floats in [-1, 1]."""
    status: Status
    """"finished", "resigned" or "timeout" (the cap on moves was reached before the rules decided)."""
    seconds: Annotated[float, Meta(ge=0, le=1e9)]
    """Wall time from the game's first ask to its last move."""


class GameRecord(_Played, kw_only=True):
    """One finished game. Lists named per move are as long as `moves`; `None` stands where no search was made."""

    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    """Further keys of the line, such as the optional per-move lists `target`, `prior`, `q`, `kind`."""


class Head(msgspec.Struct, gc=False):
    """What names a game."""

    schema: int
    game: _Spec
    index: _Whole
    seed: _Whole


class _Schema(msgspec.Struct):
    schema: int


class Finished(NamedTuple):
    """Which games of a folder are done."""

    indices: set[int]
    problems: list[Problem]
    duplicates: list[int]
    """Indices that more than one line claims, ascending."""


# -- one line ------------------------------------------------------------------------------------------------------

_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)
_CRC = re.compile(rb',"crc32":(\d{1,10})\}\n?\Z')
_CRC_BYTES = len(b',"crc32":4294967295}\n')
_FIELDS = {"schema", "crc32", *_Played.__struct_fields__}
_PER_MOVE = ("visits", "values", "models")
_SHORT = 200
"""Characters of an error text of the decoder, which may quote what it found."""
_T = TypeVar("_T")
_head = msgspec.json.Decoder(Head).decode
_schema = msgspec.json.Decoder(_Schema).decode
_played = msgspec.json.Decoder(_Played).decode
_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def encode(record: GameRecord) -> bytes:
    """Return the record as one line, newline included.

    Raises RecordError when the record holds what JSON cannot, such as NaN or numpy scalars.
    """
    body = {"schema": SCHEMA, **{name: getattr(record, name) for name in _Played.__struct_fields__}, **record.extra}
    body["values"] = [None if v is None else [round(x, DIGITS) for x in v] for v in record.values]
    body["seconds"] = round(record.seconds, DIGITS)
    try:
        text = _JSON.encode(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"game {record.index} cannot be written as JSON: {error}") from error
    head = text[:-1].encode("ascii")
    return head + b',"crc32":%d}\n' % zlib.crc32(head)


def read_head(line: bytes) -> Head:
    """Return what names the game in `line`, with or without its newline; of the line, only the checksum is verified.

    Raises LineError.
    """
    if not line:
        raise LineError("long", f"longer than {LONGEST_LINE >> 20} MiB, which is not read")
    tail = _CRC.search(line, max(0, len(line) - _CRC_BYTES))  # not from the start: lines are long
    if tail is None:
        raise LineError("torn", "torn line: it does not end in its checksum (the writer was stopped in mid-write)")
    if zlib.crc32(memoryview(line)[: tail.start()]) != int(tail[1]):
        raise LineError("damaged", "damaged line: the checksum does not fit")
    end = line.find(b',"moves":')  # Grove writes the head first, and no text can hold this: its quotes are escaped
    try:
        head = _head(line[:end] + b"}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        head = _decoded(_head, line)
    if head.schema != SCHEMA:
        raise _of_schema(head.schema)
    if head.index > LARGEST_INDEX or head.seed > LARGEST_SEED:
        raise LineError("invalid", "not a game record: its index or seed is too large")
    return head


def decode_line(line: bytes) -> GameRecord:
    """Return the record in `line` (with or without its newline) after checking everything about it.

    Raises LineError when the line is torn, damaged, of a later schema or not a game record.
    """
    head, played = read_head(line), _decoded(_played, line)
    if (head.game, head.index, head.seed) != (played.game, played.index, played.seed):
        raise LineError("invalid", "not a game record: it names its game twice")
    seats, moves = len(played.utilities), len(played.moves)
    if not all(len(getattr(played, key)) == moves for key in _PER_MOVE):
        raise LineError("invalid", f"visits, values and models must hold one entry for each of the {moves} moves")
    if not all(values is None or len(values) == seats for values in played.values):
        raise LineError("invalid", f"values must be null or {seats} numbers for each move")
    extra = {key: _decoded(msgspec.json.decode, raw) for key, raw in _raw(line).items() if key not in _FIELDS}
    if _is_deeper(extra, DEEPEST):
        raise LineError("invalid", f"further keys are nested deeper than {DEEPEST} times")
    return GameRecord(**msgspec.structs.asdict(played), extra=extra)


def check_record(record: GameRecord) -> None:
    """Raise RecordError when the record holds what no search and no game can give."""
    decode_line(encode(record))


def _decoded(decode: Callable[[bytes], _T], line: bytes) -> _T:
    try:
        return decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if (schema := _schema(line).schema) > SCHEMA:
                raise _of_schema(schema) from None
        raise LineError("invalid", f"not a game record: {str(error)[:_SHORT]}") from error


def _of_schema(schema: int) -> LineError:
    if schema < SCHEMA:
        return LineError("invalid", f"schema must be {SCHEMA}")
    return LineError("later", f"schema {schema}, but this Grove reads {SCHEMA}; use the Grove that wrote it")


def _is_deeper(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    return depth < 0 or any(_is_deeper(v, depth - 1) for v in (value.values() if isinstance(value, dict) else value))


# -- reading -------------------------------------------------------------------------------------------------------


def read_folder(folder: Path, problems: list[Problem] | None = None) -> Iterator[GameRecord]:
    """Yield the games of all logs in `folder`, log by log; skipped lines are appended to `problems`."""
    skipped = [] if problems is None else problems
    for path in log_paths(folder):
        yield from _read(path, decode_line, skipped)


def finished_indices(folder: Path) -> Finished:
    """Return which game indices the logs in `folder` hold; lines are read as `read_head` does.

    Raises RecordError when a log cannot be read to its end: its games would be played again.
    """
    indices: set[int] = set()
    duplicates: set[int] = set()
    problems: list[Problem] = []
    for path in log_paths(folder):
        for head in _read(path, read_head, problems):
            (duplicates if head.index in indices else indices).add(head.index)
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
    with suppress(OSError), path.open("rb") as file:  # unreadable: a start of the same run will see what it holds
        file.seek(start)
        for line in file:
            start += len(line)
            with suppress(RecordError):
                found.append(read_head(line).index)
    return found, start


def _read(path: Path, parse: Callable[[bytes], _T], problems: list[Problem]) -> Iterator[_T]:
    try:
        for number, line in LineReader(path).lines():
            try:
                yield parse(line)
            except LineError as error:
                problems.append(Problem(path, number, str(error)))
    except RecordError as error:
        problems.append(Problem(path, 0, str(error)))
