"""Finding game logs under any folders, and reading their lines in bounded memory, whatever lies there.

A log is known by its name: `*.jsonl`, `*.jsonl.gz`, `*.jsonl.zst`; its first bytes say whether it is compressed. Every
folder and file is visited once, whatever links lead to it. Only regular files are opened. What cannot be read is
reported with its reason, never passed over.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib
import io
import json
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec

from grove.common.errors import RecordError

LONGEST_LINE = 16 << 20
"""Bytes of the longest line that is read; a game of 500 moves with 500 visited actions each takes a sixth of it."""
LOG_NAMES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_BLOCK = 1 << 16
_LARGEST_RUN_FILE = 16 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_ZSTD_WINDOW = 128 << 20
_ZSTD_PIECE = 1 << 10
"""Bytes decompressed at once; four make 128 KiB at most, so a piece makes 32 MiB at most."""


class Run(NamedTuple):
    """The run that a log belongs to."""

    folder: Path | None
    """Run folder; None for a log that lies in none."""
    identity: str
    """Made of when, by whom and with which seed the run was first started and of where in its folder the log lies: the
    same after a resume, a move or a copy of the folder. Empty for a log in no run folder."""


class GameFile(NamedTuple):
    """A log that was found."""

    path: Path
    run: Run


class Problem(NamedTuple):
    """A line, or a whole file, that cannot be used."""

    path: Path
    line: int
    """Line number from 1; 0 for the file itself."""
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass
class FoundFiles:
    """What lies under the given folders."""

    files: list[GameFile] = field(default_factory=list)
    """In the order of their paths."""
    troubles: list[Problem] = field(default_factory=list)


LOOSE = Run(None, "")


def find_files(roots: Sequence[Path]) -> FoundFiles:
    """Return all logs under `roots`, folders or files. Links are followed; never raises for what lies there."""
    found = FoundFiles()
    runs: dict[Path, Run] = {}
    seen: set[tuple[int, int]] = set()
    paths: list[Path] = []
    pending = [Path(root) for root in reversed(roots)]
    while pending:
        path = pending.pop()
        wanted = path.name.endswith(LOG_NAMES)
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            if stat.S_ISDIR(status.st_mode):
                pending += sorted((path / name for name in os.listdir(path)), reverse=True)
            elif wanted or path in roots:
                _refuse_special(status.st_mode)
                paths.append(path)
            seen.add((status.st_dev, status.st_ino))
        except OSError as error:
            if wanted or error.errno not in (errno.ENOENT, errno.ELOOP):  # other names that lead nowhere are no data
                found.troubles.append(Problem(path, 0, reason(error)))
    found.files = [GameFile(path, _run_of(path, runs, found.troubles)) for path in sorted(paths)]
    return found


def reason(error: BaseException) -> str:
    """Return the error in words, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _refuse_special(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError("it is no regular file but a pipe, a socket or a device, which is never read")


# -- runs ------------------------------------------------------------------------------------------------------------


def _run_of(path: Path, runs: dict[Path, Run], troubles: list[Problem]) -> Run:
    """Return the run of a log: the nearest folder above it with config.toml and run.json."""
    folder = Path(os.path.realpath(path)).parent
    if folder not in runs:
        runs[folder] = LOOSE
        for above in (folder, *folder.parents):
            if os.path.isfile(above / "config.toml") and os.path.isfile(above / "run.json"):
                runs[folder] = _run_in(above, folder, troubles)
                break
    return runs[folder]


class _Start(msgspec.Struct):
    """What run.json says of a run's first start."""

    seed: Any
    time: Any
    pid: Any = None


def _run_in(folder: Path, logs: Path, troubles: list[Problem]) -> Run:
    try:
        start = msgspec.json.decode(read_whole(folder / "run.json"), type=_Start)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = f"{reason(error)}; its games count as those of no run, so a mark does not know them"
        troubles.append(Problem(folder / "run.json", 0, why))
        return Run(folder, "")
    text = json.dumps([start.seed, start.time, start.pid, logs.relative_to(folder).as_posix()])
    return Run(folder, hashlib.sha256(text.encode()).hexdigest()[:16])


def read_whole(path: Path, largest: int = _LARGEST_RUN_FILE) -> bytes:
    """Return the content of a small regular file. Raises OSError, also for a larger one."""
    with open_regular(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(f"it is larger than {largest >> 20} MiB")
    return content


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file for reading. Raises OSError for anything else, without waiting for a pipe's writer."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        _refuse_special(os.fstat(file.fileno()).st_mode)
        yield file


# -- lines -----------------------------------------------------------------------------------------------------------


class LineReader:
    """The lines of one log as they were when it was opened, read in bounded memory. Read once.

    After reading: `complete` says whether the last line had its newline, `grew` whether the file is larger by now.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        """`size`: bytes of the file to read, by default those that it has when it is opened."""
        self.path = path
        self.size = size or 0
        self.compression = ""
        self.complete = True
        self.grew = False
        self._limit = size

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number from 1, line with its newline); of one that is too long to be a game no byte.

        Raises RecordError when the file, or the rest of it, cannot be read.
        """
        try:
            with open_regular(self.path) as raw:
                if self._limit is None:
                    self.size = os.fstat(raw.fileno()).st_size
                yield from enumerate(self._split(self._opened(raw)), 1)
                self.grew = os.fstat(raw.fileno()).st_size > self.size
        except (OSError, EOFError, zlib.error) as error:
            raise RecordError(f"cannot be read: {reason(error)}") from error

    def _opened(self, raw: IO[bytes]) -> IO[bytes]:
        begin = raw.read(4)
        raw.seek(0)
        self.compression = next((kind for magic, kind in _MAGIC.items() if begin.startswith(magic)), "")
        if self.compression == "gzip":
            return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
        if self.compression == "zstd":
            return io.BufferedReader(_Unpacked(raw), _BLOCK)
        return raw

    def _split(self, file: IO[bytes]) -> Iterator[bytes]:
        left = sys.maxsize if self.compression else self.size
        while left and (line := file.readline(min(LONGEST_LINE + 1, left))):
            left -= len(line)
            self.complete = line.endswith(b"\n")
            if not self.complete and len(line) > LONGEST_LINE:
                line = b""
                while left and not self.complete and (rest := file.readline(min(_BLOCK, left))):
                    left -= len(rest)
                    self.complete = rest.endswith(b"\n")
            yield line


class _Unpacked(io.RawIOBase):
    """The content of a file compressed with zstd, which may be several frames; one cut short is an EOFError.

    zstandard's own reader would take a cut frame for the end.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._kept = raw, memoryview(b"")
        self._zstandard = _zstandard()
        self._decompressor = self._zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame, self._packed = self._decompressor.decompressobj(), b""
        self._begun = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what comes next; 0 at the end."""
        while not self._kept:
            packed = self._packed or self._raw.read(_ZSTD_PIECE)
            if not packed and self._begun:
                raise EOFError("the compressed file ends in mid-frame")
            if not packed:
                return 0
            try:
                self._kept = memoryview(self._frame.decompress(packed))
            except self._zstandard.ZstdError as error:
                raise OSError(reason(error)) from error
            self._begun, self._packed = not self._frame.eof, self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
        count = min(len(buffer), len(self._kept))
        buffer[:count], self._kept = self._kept[:count], self._kept[count:]
        return count


def compress(raw: IO[bytes], kind: str) -> IO[bytes]:
    """Return a file that compresses into `raw`, which stays open when it is closed.

    `kind`: `gzip`, or `zstd`, for which OSError is raised when its package is missing.
    """
    if kind == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="wb"))
    stream: IO[bytes] = _zstandard().ZstdCompressor().stream_writer(raw, closefd=False)
    return stream


def _zstandard() -> Any:
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        raise OSError(
            "it is compressed with zstd and the package zstandard is missing; install grove-selfplay[data]"
        ) from None
