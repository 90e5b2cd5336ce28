"""Temporary folders that outlive nobody: what a killed process left is removed by the next one that makes a folder.

A folder is claimed by a lock on a file in it, and the operating system drops the lock of a dead process.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MARK = "grove.lock"
_KINDS = ("grove-*", "pymp-*")
"""Names of the folders that are claimed: ours, and the one where multiprocessing keeps the forkserver's socket."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder that only this user can enter; it is removed afterwards."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix="grove-"))  # mode 0700
    mark = claim(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if mark is not None:
            os.close(mark)


def claim(folder: Path) -> int | None:
    """Mark `folder` as in use for as long as the returned descriptor is open; None where there are no such locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    hidden = folder / f".{_MARK}"
    mark = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(mark, fcntl.LOCK_EX)
    hidden.rename(folder / _MARK)  # seen only when it is locked: nobody takes a new folder for a left one
    return mark


def is_claimed(folder: Path) -> bool:
    """Return whether `folder` carries a mark, of a living process or of a dead one."""
    return (folder / _MARK).exists()


def sweep() -> None:
    """Remove the claimed folders of this user whose process has ended without doing so."""
    if sys.platform == "win32":
        return
    import fcntl

    home = Path(tempfile.gettempdir())
    for mark in [mark for kind in _KINDS for mark in home.glob(f"{kind}/{_MARK}")]:
        with suppress(OSError):
            status = mark.parent.lstat()  # somebody else's folder, or a link to one of ours, is left alone
            if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
                continue
            number = os.open(mark, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(mark.parent, ignore_errors=True)
            finally:
                os.close(number)
