"""Game records: one finished game is one JSON line, complete in itself, in the log of the worker that played it.

    {"schema":1,"game":"connect_four","index":7,"seed":...,"moves":[3,...],"visits":[[[0,12],[3,88]],null,...],
     "values":[[0.12,-0.12],null,...],"models":["9f3c...",null,...],"utilities":[1.0,-1.0],"status":"finished",
     "seconds":4.2,"crc32":...}

`crc32` is zlib.crc32 of the line's bytes before `,"crc32"`, so a torn or damaged line is noticed without a schema.
Logs are append only. A line that cannot be used is skipped and reported, never fatal. States are rebuilt by replay.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from common.errors import LineError, RecordError, StorageError

SCHEMA = 1
"""Version of the line's layout; a reader refuses lines of a later one."""

STATUSES = ("finished", "resigned", "timeout")
DIGITS = 4
"""Decimals kept of root values: far below the noise of a search, and a third of the bytes of full floats."""

FSYNC_EVERY_S = 5.0
"""Default longest time that a finished game may be lost for to a power cut; a killed process loses nothing."""

# Not looking for circular lists saves a third of the time.
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)
_CRC_KEY = b',"crc32":'
_TAIL = re.compile(rb',"crc32":(\d{1,10})\}\n?\Z')
_TAIL_BYTES = len(b',"crc32":4294967295}\n')
_NUMBER = rb"(0|[1-9][0-9]{0,19})"
# Printable ASCII only: what JSON escapes, or refuses, is left to its parser.
_HEAD = re.compile(
    rb'\{"schema":1,"game":"([ !#-\[\]-~]{0,1000})","index":' + _NUMBER + b',"seed":' + _NUMBER + b","
).match
LARGEST_INDEX = (1 << 63) - 1
LARGEST_SEED = (1 << 64) - 1
LARGEST_MOVE = (1 << 31) - 1
LONGEST_SPEC = 1000
"""Characters of a game spec."""
_FIELDS = ("schema", "game", "index", "seed", "moves", "visits", "values", "models", "utilities", "status", "seconds")
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


def read_head(line: bytes) -> tuple[str, int, int]:
    """Return game spec, index and seed of the game in `line`, with or without its newline; the checksum is verified.

    JSON is parsed only where the line does not begin as `encode` writes it. Raises LineError.
    """
    head = written_head(line.removesuffix(b"\n"))
    if head is None:
        record = decode_line(line)
        return record.game, record.index, record.seed
    return head[0].decode("ascii"), head[1], head[2]


def written_head(line: bytes) -> tuple[bytes, int, int] | None:
    """Return game spec, index and seed of a line, without its newline, that begins and ends as `encode` writes it.

    None where it does not, or where its checksum does not fit. Made for millions of lines.
    """
    head, tail = _HEAD(line), line.rfind(_CRC_KEY)
    if head is None or line[tail:] != b'%b%d}' % (_CRC_KEY, zlib.crc32(line[:tail])):
        return None
    game, index, seed = head.groups()
    numbers = int(index), int(seed)
    return (game, *numbers) if numbers[0] <= LARGEST_INDEX and numbers[1] <= LARGEST_SEED else None


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


# -- writing -------------------------------------------------------------------------------------------------------


class LineLog:
    """An append-only file of lines: opened at the first line, one `write` a line, never an empty file left behind.

    A tail that a killed writer tore is closed with a newline first, so it spoils no later line; a line that found no
    room is taken back. Every failure of the file system is a StorageError, and so is a file that was removed: its
    lines would reach nobody. Used by one thread.
    """

    def __init__(self, path: Path, fsync_every_s: float | None = FSYNC_EVERY_S) -> None:
        """Remember `path`. `fsync_every_s`: seconds between fsyncs, 0 for every line, None for never."""
        self.path = Path(path)
        self._every_s = fsync_every_s
        self._fd: int | None = None
        self._torn = self._new = self._unsynced = False
        self._synced_at = time.monotonic()

    def write(self, line: bytes) -> None:
        """Append `line`, which ends in a newline."""
        try:
            if self._fd is None:
                self._fd = self._open()
            self._append(self._fd, b"\n" + line if self._torn else line)
            self._torn, self._unsynced = False, os.fstat(self._fd).st_nlink > 0
            if not self._unsynced:
                raise OSError("it was removed")
            self._sync_if_due()
        except OSError as error:
            self._drop_empty()
            raise StorageError(
                f"cannot write {self.path}: {error}; free some space or choose another folder"
            ) from error

    def sync_if_due(self) -> None:
        """Sync what was written longer ago than the policy allows; to be called now and then when no line comes."""
        try:
            self._sync_if_due()
        except OSError as error:
            raise StorageError(f"cannot sync {self.path}: {error}; look after the disk") from error

    def close(self) -> None:
        """Sync by policy and close; closing twice is harmless."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            if self._unsynced and self._every_s is not None:
                self._sync(fd)
        except OSError as error:
            raise StorageError(f"cannot sync {self.path}: {error}; look after the disk") from error
        finally:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._new = not self.path.exists()
        fd = os.open(self.path, flags, 0o644)
        size = os.lseek(fd, 0, os.SEEK_END) if stat.S_ISREG(os.fstat(fd).st_mode) else 0
        if size:
            os.lseek(fd, size - 1, os.SEEK_SET)
            self._torn = os.read(fd, 1) != b"\n"
        return fd

    def _append(self, fd: int, data: bytes) -> None:
        """Write all of `data` or nothing."""
        written = os.write(fd, data)
        if written != len(data):
            os.ftruncate(fd, os.fstat(fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _sync_if_due(self) -> None:
        if self._fd is None or self._every_s is None or not self._unsynced:
            return
        now = time.monotonic()
        if now - self._synced_at >= self._every_s:
            self._sync(self._fd)
            self._synced_at, self._unsynced = now, False

    def _sync(self, fd: int) -> None:
        os.fsync(fd)
        if self._new:
            sync_folder(self.path.parent)
            self._new = False

    def _drop_empty(self) -> None:
        if self._fd is None:
            return
        status = os.fstat(self._fd)
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.close(self._fd)
            self._fd, self._torn = None, False
            self.path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Let the names of new files survive a power cut; on Windows the file system sees to it."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class GameLog:
    """The log of one worker: finished games, one line each."""

    def __init__(self, path: Path, fsync_every_s: float | None = FSYNC_EVERY_S) -> None:
        """Remember `path`, whose folder must exist. `fsync_every_s`: 0 syncs every game, None never."""
        self._lines = LineLog(path, fsync_every_s)

    @property
    def path(self) -> Path:
        """Where the games go."""
        return self._lines.path

    def append(self, record: GameRecord) -> None:
        """Write one finished game. Raises RecordError when it cannot be encoded or written."""
        self._lines.write(encode(record))

    def sync_if_due(self) -> None:
        """Sync by policy; to be called now and then, because no game may come for long."""
        self._lines.sync_if_due()

    def close(self) -> None:
        """Sync by policy and close."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# -- reading -------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> LogContents:
    """Return the games of one log and the lines that had to be skipped."""
    problems: list[Problem] = []
    return LogContents(list(_decode_all(Path(path), problems)), problems)


def read_folder(folder: Path, problems: list[Problem] | None = None) -> Iterator[GameRecord]:
    """Yield the games of all `*.jsonl` logs in `folder`, log by log; skipped lines are appended to `problems`."""
    skipped = [] if problems is None else problems
    for path in log_paths(folder):
        yield from _decode_all(path, skipped)


def finished_indices(folder: Path) -> Finished:
    """Return which game indices the logs in `folder` hold.

    Lines are read as `read_head` does.
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
    return Finished(indices, problems, sorted(duplicates))


def log_paths(folder: Path) -> list[Path]:
    """Return the game logs in `folder`, sorted; none when there is no such folder."""
    return sorted(Path(folder).glob("*.jsonl"))


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
        with path.open("rb") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        problems.append(Problem(path, 0, f"cannot be read: {error}"))
