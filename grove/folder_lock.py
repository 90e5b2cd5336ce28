"""A lock file that names its holder. The operating system drops the lock of a dead process, so none is ever stale."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from common.errors import SettingError

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, 1 << 30, os.SEEK_SET)  # far behind the text: a locked byte cannot be read
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


class FolderLock:
    """The right to write a folder, held from construction to `release`."""

    def __init__(self, path: Path) -> None:
        """Take the lock at `path`. Raises SettingError when a living process has it, OSError when it cannot be made."""
        self._path = path
        self._fd: int | None = None
        while self._fd is None:
            self._fd = _take(path)
        os.truncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.write(self._fd, b"%d\n" % os.getpid())

    def release(self) -> None:
        """Remove the file and let the lock go; releasing twice is harmless."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        if sys.platform != "win32":
            self._path.unlink(missing_ok=True)
        os.close(fd)


def _take(path: Path) -> int | None:
    """Return the locked descriptor, or None when the file was removed meanwhile by the process that had it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(fd)
    except OSError as error:
        os.close(fd)
        if error.errno not in _HELD:
            raise
        holder = path.read_text(errors="replace").strip() or "unknown"
        raise SettingError(
            f"{path.parent} is in use by process {holder}; wait until it ends, or give another --out"
        ) from error
    try:
        if sys.platform == "win32" or path.stat().st_ino == os.fstat(fd).st_ino:
            return fd
    except FileNotFoundError:
        pass
    os.close(fd)
    return None
