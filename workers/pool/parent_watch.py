"""How a child process ends with its parent, and what it then removes in its place."""

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
from pathlib import Path

FOLDER_VARIABLE = "GROVE_NURSERY_FOLDER"
"""Environment variable that names the folder of the forkservers' sockets."""
GRACE_S = 3.0
"""Seconds that a child whose supervisor is gone has for an orderly end."""
_LOOK_S = 0.5


@contextmanager
def ended_with_supervisor(private: str = "") -> Iterator[None]:
    """Leave signals to the supervisor, end soon after it, and then remove the folders of its sockets.

    Whoever reads its pipe notices its end by itself; a thread is for a child that computes, compiles or hangs.
    `private`: endpoint in a folder that the supervisor made, and nobody else will remove.
    """
    _leave_signals()
    parent = multiprocessing.parent_process()
    if parent is None:
        yield
        return
    threading.Thread(target=_outlive, args=(parent.sentinel, private), name="parent-watch", daemon=True).start()
    try:
        yield
    finally:
        if connection.wait([parent.sentinel], 0):
            _tidy_up(private)


def _leave_signals() -> None:
    """Let the supervisor decide on signals that reach the whole terminal or service; only SIGKILL ends a child.

    A handler, not SIG_IGN, because compilers started from here would inherit the latter.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)


def _outlive(sentinel: int, private: str) -> None:
    connection.wait([sentinel])
    time.sleep(GRACE_S)
    _tidy_up(private)
    os._exit(1)


def _tidy_up(private: str) -> None:
    if private.startswith("ipc://"):
        shutil.rmtree(Path(private.removeprefix("ipc://")).parent, ignore_errors=True)
    if sys.platform != "win32":
        shutil.rmtree(util.get_temp_dir(), ignore_errors=True)  # the supervisor's, with the forkservers' sockets


@contextmanager
def ended_with_parent() -> Iterator[None]:
    """End this process, a forkserver that loads, when its parent is gone meanwhile: compiling may take minutes.

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
