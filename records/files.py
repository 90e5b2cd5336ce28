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
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from grove.common.errors import RecordError

LONGEST_LINE = 16 << 20
"""Bytes of the longest line that is read; a game of 500 moves with 500 visited actions each takes a sixth of it."""
BLOCK = 1 << 16
"""Bytes read at once; small enough for a core's own cache, which makes counting a third faster."""
LARGEST_RATIO = 200
"""A compressed log that grows by more is taken for a bomb; logs of games grow five- to fifteenfold."""
_UNSUSPICIOUS = 64 << 20
"""Bytes that any compressed log may grow to."""
_LARGEST_RUN_FILE = 16 << 20
LOG_NAMES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_ZSTD_WINDOW = 128 << 20
_ZSTD_PIECE = 1 << 10
"""Bytes decompressed at once: four make 128 KiB at most, so a piece makes 32 MiB at most."""


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


class Trouble(NamedTuple):
    """Something that could not be read."""

    path: Path
    why: str


@dataclass
class FoundFiles:
    """What lies under the given folders."""

    files: list[GameFile] = field(default_factory=list)
    """In the order of their paths."""
    troubles: list[Trouble] = field(default_factory=list)


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
                found.troubles.append(Trouble(path, reason(error)))
    found.files = [GameFile(path, _run_of(path, runs, found.troubles)) for path in sorted(paths)]
    return found


def reason(error: BaseException) -> str:
    """Return the error in words, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _refuse_special(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
        raise OSError(f"it is {kinds.get(stat.S_IFMT(mode), 'no regular file')}, which is never opened")


# -- runs ------------------------------------------------------------------------------------------------------------


def _run_of(path: Path, runs: dict[Path, Run], troubles: list[Trouble]) -> Run:
    """Return the run of a log: the nearest folder above it with config.toml and run.json."""
    folder = Path(os.path.realpath(path)).parent
    if folder not in runs:
        runs[folder] = LOOSE
        for above in (folder, *folder.parents):
            if os.path.isfile(above / "config.toml") and os.path.isfile(above / "run.json"):
                runs[folder] = _run_in(above, folder, troubles)
                break
    return runs[folder]


def _run_in(folder: Path, logs: Path, troubles: list[Trouble]) -> Run:
    try:
        content = json.loads(read_whole(folder / "run.json"))
        parts = [content["seed"], content["time"], content.get("pid"), logs.relative_to(folder).as_posix()]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        why = f"{reason(error)}; its games count as those of no run, so a mark does not know them"
        troubles.append(Trouble(folder / "run.json", why))
        return Run(folder, "")
    text = json.dumps(parts)
    return Run(folder, hashlib.sha256(text.encode()).hexdigest()[:16])


def read_whole(path: Path, largest: int = _LARGEST_RUN_FILE) -> bytes:
    """Return the content of a small regular file. Raises OSError, also for a larger one."""
    with open_regular(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(f"it is larger than {largest >> 20} MiB")
    return content


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading. Raises OSError for anything else, without waiting for a pipe's writer."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    fd = os.open(path, flags)
    try:
        _refuse_special(os.fstat(fd).st_mode)
        return os.fdopen(fd, "rb", buffering=0)
    except BaseException:
        os.close(fd)
        raise


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

    def blocks(self) -> Iterator[tuple[int, list[bytes] | None]]:
        """Yield (number of the first line, from 1; lines with their newlines), or None for one line that is too long.

        Raises RecordError when the file, or the rest of it, cannot be read.
        """
        try:
            with open_regular(self.path) as raw:
                if self._limit is None:
                    self.size = os.fstat(raw.fileno()).st_size
                yield from _split(self._content(raw), self)
                self.grew = os.fstat(raw.fileno()).st_size > self.size
        except (OSError, EOFError, zlib.error) as error:
            raise RecordError(f"cannot be read: {reason(error)}") from error

    def _content(self, raw: IO[bytes]) -> Iterator[bytes]:
        """Yield the uncompressed bytes in blocks."""
        begin = raw.read(4)
        raw.seek(0)
        kinds = [kind for magic, kind in _MAGIC.items() if begin.startswith(magic)]
        if not kinds:
            left = self.size
            while left and (block := raw.read(min(BLOCK, left))):
                left -= len(block)
                yield block
            return
        self.compression = kinds[0]
        yield from _checked(_decompressed(raw, kinds[0]), self.size)


def _split(blocks: Iterable[bytes], reader: LineReader) -> Iterator[tuple[int, list[bytes] | None]]:
    begun: list[bytes] = []
    size, number = 0, 1
    for block in blocks:
        lines = io.BytesIO(block).readlines()  # looks for newlines twice as fast as bytes.split
        rest = b"" if block.endswith(b"\n") else lines.pop()
        if lines:
            size += len(lines[0])
            if size > LONGEST_LINE + 1:
                yield number, None
                number += 1
                del lines[0]
            else:
                lines[0] = b"".join([*begun, lines[0]])
            if lines:
                yield number, lines
                number += len(lines)
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size > LONGEST_LINE:
            begun.clear()
    if size:
        reader.complete = False
        yield number, None if size > LONGEST_LINE else [b"".join(begun)]


def _decompressed(raw: IO[bytes], kind: str) -> Iterator[bytes]:
    """Yield the uncompressed content of `raw` in pieces of some MiB at most.

    Raises OSError, EOFError or zlib.error where it is damaged, OSError when the package for it is missing.
    """
    if kind == "gzip":
        stream = gzip.GzipFile(fileobj=raw)
        while piece := stream.read1(BLOCK):  # read would lose what comes before damage
            yield piece
        return
    zstandard = _zstandard()
    make = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj
    frame, begun = make(), False
    try:
        while data := raw.read(_ZSTD_PIECE):
            while data:
                yield frame.decompress(data)
                begun = not frame.eof
                data = frame.unused_data if frame.eof else b""
                frame = make() if frame.eof else frame
    except zstandard.ZstdError as error:
        raise OSError(reason(error)) from error
    if begun:
        raise EOFError("the compressed file ends in mid-frame")


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


def _checked(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Pass on in blocks what a file of `size` bytes was made into. Raises OSError when it grows beyond all measure."""
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > max(_UNSUSPICIOUS, LARGEST_RATIO * size):
            raise OSError(f"it grows to more than {LARGEST_RATIO} times its size; the rest was not read")
        for at in range(0, len(piece), BLOCK):
            yield piece[at : at + BLOCK]
