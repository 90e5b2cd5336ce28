"""A lock file that names its holder. The operating system drops the lock of a dead process, so none is ever stale."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

import psutil

from grove.common.errors import SettingError

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, 1 << 30, os.SEEK_SET)  # far behind the text: a locked byte cannot be read
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    _look = _lock
else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _look(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_LOOK_S = 0.05
_LET_GO_S = 1.0
"""Longest wait, at the release, for children that have just ended."""
ORPHANS_S = 20.0
"""Longest wait for the children of a killed holder, which notice within seconds and hold the lock until they end."""


class FolderLock:
    """The right to write a folder, held from construction to `release`, and by children that hold `fd` open, too."""

    def __init__(self, path: Path) -> None:
        """Take the lock at `path`, waiting for the children of a holder that was killed: they may still write.

        Raises SettingError when somebody else has it, OSError when it cannot be made.
        """
        self._path = path
        self._fd: int | None = None
        deadline = time.monotonic() + ORPHANS_S
        while self._fd is None:
            self._fd = _take(path, deadline)
        os.truncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.write(self._fd, b"%d\n" % os.getpid())

    @property
    def fd(self) -> int:
        """The descriptor that holds the lock."""
        assert self._fd is not None, "the lock was released"
        return self._fd

    def release(self) -> None:
        """Let the lock go, and remove its file unless a child still holds it; releasing twice is harmless."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        os.close(fd)
        if sys.platform != "win32":
            _remove_unheld(self._path)


def _remove_unheld(path: Path) -> None:
    """Remove the lock file unless somebody has it locked: a child that could not be ended, or who took it just now.

    A child whose main thread has ended may have other threads that end, and let go, a moment later.
    """
    deadline = time.monotonic() + _LET_GO_S
    while not _removed(path) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)


def _removed(path: Path) -> bool:
    """Remove the lock file if nobody has it locked; return whether there is nothing left to be done."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:  # it is gone, or its folder is
        return True
    try:
        _lock(fd)
        if path.stat().st_ino == os.fstat(fd).st_ino:
            path.unlink()
    except OSError as error:
        return error.errno not in _HELD
    finally:
        os.close(fd)
    return True


def holder(path: Path) -> tuple[int | None, bool]:
    """Return which process took the lock at `path` (None: there is no lock) and whether it still has it.

    A process that lives is believed without touching the lock, so that nobody who takes it just then is refused.
    """
    try:
        text, taken = path.read_text(errors="replace").strip(), path.stat().st_mtime
        number = int(text) if text.isdigit() else 0
        if number and _lives_since(number, taken):
            return number, True
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None, False
    try:
        _look(fd)  # the process may live where its number means nothing here: in another container
    except OSError as error:
        return number, error.errno in _HELD
    finally:
        os.close(fd)
    return number, False


def _lives_since(number: int, taken: float) -> bool:
    """Return whether process `number` lives and is not a later one of the same number."""
    try:
        process = psutil.Process(number)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= taken + 2.0)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _take(path: Path, deadline: float) -> int | None:
    """Return the locked descriptor, or None when it has to be tried again.

    So it has when the file was removed meanwhile by the process that had it, or when that process is dead and only
    children of it hold the lock, until `deadline` (monotonic seconds).
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(fd)
    except OSError as error:
        os.close(fd)
        if error.errno not in _HELD:
            raise
        holder, taken = path.read_text(errors="replace").strip(), path.stat().st_mtime
        if holder.isdigit() and not _lives_since(int(holder), taken) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            return None
        raise SettingError(
            f"{path.parent} is in use by process {holder or 'unknown'}; wait until it ends, or give another --out"
        ) from error
    try:
        if sys.platform == "win32" or path.stat().st_ino == os.fstat(fd).st_ino:
            return fd
    except FileNotFoundError:
        pass
    os.close(fd)
    return None
