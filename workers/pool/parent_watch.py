"""Exit when the supervisor's process has died; what a child leaves to its supervisor while it lives."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, util

from grove.workers.pool.children import remove_socket_folder

FOLDER_VARIABLE = "GROVE_NURSERY_FOLDER"
"""Environment variable that names the folder of the fork servers' sockets."""
_LOOK_S = 0.5
GRACE_S = 3.0
"""Seconds that a child whose supervisor is gone has for an orderly end."""


def leave_signals() -> None:
    """Let the supervisor decide on signals that reach the whole terminal or service; only SIGKILL ends a child.

    A handler, not SIG_IGN, because compilers started from here would inherit the latter.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)


def end_with_supervisor(private: str = "") -> None:
    """See that this process and the folders of its supervisor's sockets are gone soon after the supervisor.

    Whoever reads its pipe notices by itself; this is for a child that computes, compiles or hangs.
    `private`: endpoint in a folder that the supervisor made, and nobody else will remove.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        arguments = parent.sentinel, private
        threading.Thread(target=_outlive, args=arguments, name="parent-watch", daemon=True).start()


def supervisor_is_gone() -> bool:
    """Return whether the supervisor has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and bool(connection.wait([parent.sentinel], 0))


def tidy_up(private: str) -> None:
    """Remove the folders that only the supervisor would have removed."""
    remove_socket_folder(private)
    if sys.platform != "win32":
        shutil.rmtree(util.get_temp_dir(), ignore_errors=True)  # its own: with the fork servers' sockets


def _outlive(sentinel: int, private: str) -> None:
    connection.wait([sentinel])
    time.sleep(GRACE_S)
    tidy_up(private)
    os._exit(1)


@contextmanager
def ended_with_parent() -> Iterator[None]:
    """End this process when its parent is gone meanwhile: compiling may take minutes, importing seconds.

    Later it ends as it does anyway, but without taking down what it has loaded, for which it would need half a second.
    """
    atexit.register(_end_at_once, os.getpid())
    done = threading.Event()
    watch = threading.Thread(target=_end_with_parent, args=(os.getppid(), done))
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()  # what forks has one thread


def _end_at_once(process: int) -> None:
    if os.getpid() == process:  # not in its children
        os._exit(0)


def _end_with_parent(parent: int, done: threading.Event) -> None:
    while not done.wait(_LOOK_S):
        if os.getppid() != parent:
            if folder := os.environ.get(FOLDER_VARIABLE):
                shutil.rmtree(folder, ignore_errors=True)  # nobody else is there to do so
            os._exit(1)
