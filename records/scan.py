"""Counting games: every log is read once and every line's checksum verified.

What names a game is (run, game spec, index, seed). A game that lies there twice counts once.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from grove.common.errors import LineError, RecordError
from grove.records.files import FoundFiles, GameFile, LineReader, Problem, Run
from grove.records.record import GameRecord, Head, decode_line, read_head

EXAMPLES = 5
"""Problems of a log that are kept word for word; all are counted."""
BAD = ("torn", "damaged", "invalid", "long", "later")
"""Kinds of lines that should be games and cannot be used; `foreign` ones are no games."""

Kind = Literal["games", "empty", "other", "unreadable"]
"""What a log is; `other`: JSON lines, none of them a game."""
NameRows = NDArray[np.uint64]
"""[games, 2]: index and seed."""

_GAME_BEGINS = b'{"schema":'
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass
class Columns:
    """The games of one spec in one log, in the order of their lines."""

    index: array[int] = field(default_factory=lambda: array("Q"))
    seed: array[int] = field(default_factory=lambda: array("Q"))
    line: array[int] = field(default_factory=lambda: array("Q"))


@dataclass
class Scanned:
    """What one log holds."""

    file: GameFile
    size: int = 0
    """Bytes that were read, compressed as they lie there; what a writer appends meanwhile is not seen."""
    compression: str = ""
    lines: int = 0
    games: dict[str, Columns] = field(default_factory=dict)
    bad: Counter[str] = field(default_factory=Counter)
    """Lines that are no usable games, by kind (`LineError`)."""
    examples: list[Problem] = field(default_factory=list)
    """The first of them."""
    later: array[int] = field(default_factory=lambda: array("Q"))
    """Lines of a later schema."""
    unreadable: str = ""
    """Why the log, or the rest of it, could not be read; empty when all was."""
    was_games: bool = False
    """Whether one of the bad lines begins or ends as a game does."""
    being_written: bool = False
    """Whether the last line is without its end because its writer is at it."""

    @property
    def count(self) -> int:
        """Lines that are games."""
        return sum(len(columns.index) for columns in self.games.values())

    @property
    def kind(self) -> Kind:
        """What the log is."""
        if self.unreadable:
            return "unreadable"
        if self.count or self.was_games or self.being_written:
            return "games"
        if not self.lines:
            return "empty"
        return "other" if self.bad["foreign"] and not self.bad["long"] else "unreadable"

    @property
    def bad_lines(self) -> int:
        """Lines that should be games and cannot be used."""
        return 0 if self.kind == "other" else sum(self.bad[kind] for kind in BAD)

    def note(self, error: LineError, line: bytes) -> None:
        """Count the last line, which is no usable game."""
        self.bad[error.kind] += 1
        if error.kind == "later":
            self.later.append(self.lines)
        self.was_games |= error.kind in ("damaged", "invalid", "later") or line.startswith(_GAME_BEGINS)
        if len(self.examples) < EXAMPLES:
            self.examples.append(Problem(self.file.path, self.lines, str(error)))


def scan_file(file: GameFile, held: bool = False, in_full: bool = False) -> Scanned:
    """Read one log; never raises for what is in it. `held`: a run that plays holds its folder.

    `in_full`: check every line in full, which takes several times as long.
    """
    log, reader = Scanned(file), LineReader(file.path)
    parse: Callable[[bytes], GameRecord | Head] = decode_line if in_full else read_head
    last = ""  # what is wrong with the last line
    try:
        for log.lines, line in reader.lines():
            try:
                game, last = parse(line), ""
            except LineError as error:
                error = _foreign(error, line)
                log.note(error, line)
                last = error.kind
                continue
            columns = log.games.get(game.game) or log.games.setdefault(game.game, Columns())
            columns.index.append(game.index)
            columns.seed.append(game.seed)
            columns.line.append(log.lines)
    except RecordError as error:
        log.unreadable = str(error)
    log.size, log.compression = reader.size, reader.compression
    if last == "torn" and not reader.complete and (held or reader.grew):
        log.being_written = True
        log.lines -= 1
        log.bad["torn"] -= 1
        log.examples = [problem for problem in log.examples if problem.line <= log.lines]
    return log


def _foreign(error: LineError, line: bytes) -> LineError:
    """Return the error of `line`, or a fitting one where the line is JSON that never was a game record."""
    if error.kind != "torn" or not line.lstrip().startswith(b"{"):
        return error
    try:
        content: dict[str, Any] = _object(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return error
    keys = ", ".join(key[:20] for key in list(content)[:5])
    return LineError("foreign", f"no game record of Grove: it has no checksum (keys {keys or 'none'})")


# -- all logs together -----------------------------------------------------------------------------------------------


@dataclass
class Survey:
    """What lies under the given folders, every game counted once."""

    logs: list[Scanned]
    troubles: list[Problem]
    """What could not be read at all, beside what the logs say of themselves."""
    games: dict[str, dict[str, NameRows]] = field(default_factory=dict)
    """Game spec -> run's identity -> [games, 2]: index and seed of each, ascending."""
    doubled: dict[str, Counter[str]] = field(default_factory=dict)
    """Game spec -> lines left out: `duplicates` (the game lies in the same folder) and `copies` (in another one)."""
    left_out: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    """[lines, 4]: log and line that is left out, log and line of the same game that counts."""

    def count(self, spec: str) -> int:
        """Return the number of games of `spec`."""
        return sum(len(rows) for rows in self.games.get(spec, {}).values())

    @property
    def total(self) -> int:
        """Games of all specs."""
        return sum(map(self.count, self.games))

    @property
    def unread(self) -> bool:
        """Whether anything that is or may be games could not be read."""
        return bool(self.troubles) or any(log.bad_lines or log.kind == "unreadable" for log in self.logs)

    def leave_out(self, spec: str, lines: NDArray[np.int64]) -> None:
        """Note `lines`, rows of `left_out`, of games of `spec`."""
        folders = np.array([str(log.file.path.parent) for log in self.logs])
        same = int((folders[lines[:, 0]] == folders[lines[:, 2]]).sum())
        self.doubled.setdefault(spec, Counter()).update(duplicates=same, copies=len(lines) - same)
        self.left_out = np.concatenate([self.left_out, lines])


def survey(found: FoundFiles, held: Collection[Run] = (), in_full: bool = False) -> Survey:
    """Read all logs of `found` and count every game once.

    `held`: runs in whose folders a process plays. `in_full`: check every line in full, so that no line that would be
    refused stands for a game that lies there twice.
    """
    result = Survey([scan_file(file, file.run in held, in_full) for file in found.files], found.troubles)
    groups: dict[tuple[str, str], list[int]] = {}
    for number, log in enumerate(result.logs):
        for spec in log.games:
            groups.setdefault((spec, log.file.run.identity), []).append(number)
    for (spec, run), numbers in sorted(groups.items()):
        result.games.setdefault(spec, {})[run] = _join(result, spec, numbers)
    return result


def _join(result: Survey, spec: str, numbers: Sequence[int]) -> NameRows:
    """Return the distinct games of `spec` in the logs `numbers`, all of one run; note the lines that are left out."""
    columns = [result.logs[number].games[spec] for number in numbers]
    rows = np.concatenate([np.stack([np.array(c.index), np.array(c.seed)], axis=1) for c in columns]).astype(np.uint64)
    lines = np.concatenate([np.array(c.line, np.int64) for c in columns])
    files = np.repeat(np.array(numbers, np.int64), [len(c.index) for c in columns])
    order = np.lexsort((rows[:, 1], rows[:, 0]))  # stable: the first line in the order of the paths comes first
    fresh = first_of_each(rows[order])
    if not fresh.all():
        kept = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1][~fresh]]
        out = order[~fresh]
        result.leave_out(spec, np.stack([files[out], lines[out], files[kept], lines[kept]], axis=1))
    return rows[order][fresh]


def first_of_each(rows: NameRows) -> NDArray[np.bool_]:
    """Return which of the sorted `rows` differ from the one before."""
    fresh = np.ones(len(rows), np.bool_)
    fresh[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return fresh


class ScannedGame(NamedTuple):
    """A game that counts, and where it lies."""

    record: GameRecord
    log: Scanned
    line: int
    size: int
    """Bytes of its line."""


Report = Callable[[Problem], None]
"""Takes a line that a full check refused."""


def records(result: Survey, problems: Report) -> Iterator[ScannedGame]:
    """Yield every game that counts with its log and line, checked in full; a line that fails goes to `problems`.

    Logs are read as far as the survey read them, so that a growing one gives the same games.
    """
    for number, log in enumerate(result.logs):
        wanted = np.zeros(log.lines + 1, np.bool_)
        for columns in log.games.values():
            wanted[np.array(columns.line, np.int64)] = True
        wanted[result.left_out[result.left_out[:, 0] == number, 1]] = False
        if wanted.any():
            yield from _records_of(log, wanted, problems)


def _records_of(log: Scanned, wanted: NDArray[np.bool_], problems: Report) -> Iterator[ScannedGame]:
    try:
        for number, line in LineReader(log.file.path, log.size).lines():
            if number >= len(wanted) or not wanted[number]:
                continue
            try:
                yield ScannedGame(decode_line(line), log, number, len(line))
            except LineError as error:
                problems(Problem(log.file.path, number, str(error)))
    except RecordError as error:
        if str(error) != log.unreadable:  # it changed since the survey
            problems(Problem(log.file.path, 0, str(error)))
