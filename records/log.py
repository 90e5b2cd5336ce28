"""Append-only logs: how a finished game, or any other line, comes to lie safely on the disk."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from grove.common.errors import StorageError
from grove.records.record import GameRecord, encode

FSYNC_EVERY_S = 5.0
"""Default longest time that a finished game may be lost for to a power cut; a killed process loses nothing."""


class LineLog:
    """An append-only file of lines: opened at the first line, one `write` a line, never an empty file left behind.

    A tail that a killed writer tore is closed with a newline first, so it spoils no later line; a line that found no
    room is taken back. Every failure of the file system is a StorageError, and so is a file that was removed: its
    lines would reach nobody. Used by one thread.
    """

    def __init__(
        self, path: Path, fsync_every_s: float | None = FSYNC_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Remember `path`. `fsync_every_s`: seconds of `clock` between fsyncs, 0 for every line, None for never."""
        self.path = Path(path)
        self._every_s, self._clock = fsync_every_s, clock
        self._fd: int | None = None
        self._torn = self._new = self._unsynced = False
        self._synced_at = clock()

    def write(self, line: bytes) -> None:
        """Append `line`, which ends in a newline."""
        with self._failures("write", "free some space or choose another folder"):
            try:
                if self._fd is None:
                    self._fd = self._open()
                self._append(self._fd, b"\n" + line if self._torn else line)
                self._torn, self._unsynced = False, os.fstat(self._fd).st_nlink > 0
                if not self._unsynced:
                    raise OSError("it was removed")
                self._sync_if_due()
            except OSError:
                self._drop_empty()
                raise

    def sync_if_due(self) -> None:
        """Sync what was written longer ago than the policy allows; to be called now and then when no line comes."""
        with self._failures("sync", "look after the disk"):
            self._sync_if_due()

    def close(self) -> None:
        """Sync by policy and close; closing twice is harmless."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        with self._failures("sync", "look after the disk"):
            try:
                if self._unsynced and self._every_s is not None:
                    self._sync(fd)
            finally:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _failures(self, doing: str, remedy: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot {doing} {self.path}: {error}; {remedy}") from error

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
        now = self._clock()
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


class GameLog(LineLog):
    """The log of one worker: finished games, one line each."""

    def append(self, record: GameRecord) -> None:
        """Write one finished game. Raises RecordError when it cannot be encoded or written."""
        self.write(encode(record))
