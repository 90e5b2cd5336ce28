"""A lock file that names its holder. The operating system drops the lock of a dead process, so none is ever stale.

The library `filelock` would not do: it gives no descriptor that children could hold.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import psutil

from grove.common.errors import SettingError

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
        deadline = time.monotonic() + ORPHANS_S
        while (fd := _try(path, os.O_RDWR | os.O_CREAT)) is None:
            number, lives = _named(path)
            if lives or time.monotonic() > deadline:
                who = f"{path.parent} is in use by process {number or 'unknown'}"
                raise SettingError(f"{who}; wait until it ends, or give another --out")
            time.sleep(_LOOK_S)
        self._path, self._fd = path, fd
        os.truncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())

    @property
    def fd(self) -> int:
        """The descriptor that holds the lock."""
        assert self._fd >= 0, "the lock was released"
        return self._fd

    def release(self) -> None:
        """Let the lock go, and remove its file unless a child still holds it; releasing twice is harmless.

        A child whose main thread has ended may have other threads that end, and let go, a moment later.
        """
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd, deadline = -1, time.monotonic() + _LET_GO_S
        while self._path.exists() and time.monotonic() < deadline:
            if (fd := _try(self._path, os.O_RDWR)) is not None:
                self._path.unlink(missing_ok=True)
                os.close(fd)
                return
            time.sleep(_LOOK_S)


def holder(path: Path) -> tuple[int | None, bool]:
    """Return which process took the lock at `path` (None: there is no lock) and whether it, or a child, has it.

    A process that lives is believed without touching the lock, so that nobody who takes it just then is refused.
    """
    try:
        number, lives = _named(path)
        if lives:
            return number, True
        fd = _try(path, os.O_RDONLY)  # it may live where its number means nothing here: in another container
    except FileNotFoundError:
        return None, False
    if fd is not None:
        os.close(fd)
    return number, fd is None


def _try(path: Path, flags: int) -> int | None:
    """Return a descriptor that holds the lock, or None when somebody else has it or has just removed the file."""
    fd = os.open(path, flags, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(fd).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _named(path: Path) -> tuple[int, bool]:
    """Return the process that the file names, 0 for none, and whether it lives and is no later one of that number."""
    try:
        text, taken = path.read_text(errors="replace").strip(), path.stat().st_mtime
    except FileNotFoundError:
        return 0, False
    number = int(text) if text.isdigit() else 0
    try:
        process = psutil.Process(number or -1)
        return number, bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= taken + 2.0)
    except (psutil.NoSuchProcess, ValueError):
        return number, False
    except psutil.Error:
        return number, True
