"""What this session has started and not ended: threads, processes, folders of sockets."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from multiprocessing import resource_tracker
from pathlib import Path

import psutil

from grove.workers.pool.fork_server import SERVERS, WORKERS

STARTED = psutil.Process().create_time()
SESSIONS: set[int] = set()
"""Process sessions started so far: what runs in one of them is ours."""


def own_threads() -> set[threading.Thread]:
    """Return the threads without the one that pyzmq keeps for good after the first send without a copy."""
    return {thread for thread in threading.enumerate() if not type(thread).__module__.startswith("zmq.")}


def processes_left() -> set[psutil.Process]:
    """Return the processes this session started, children of dead ones included, without what stays on purpose.

    Nothing is asked of processes of others: reading their environment or command line may block.
    """
    staying = {os.getpid(), WORKERS.pid, SERVERS.pid, resource_tracker._resource_tracker._pid}
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            session = os.getsid(process.pid)
            orphan = session == os.getsid(0) and process.ppid() <= 1 and process.create_time() >= STARTED
            ours = process.pid in children or session in SESSIONS or orphan
            if ours and process.pid not in staying and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    # torch keeps a pool of compiler processes.
    return {process for process in found if "torch/_inductor" not in describe(process)}


def describe(process: psutil.Process) -> str:
    try:
        return f"process {process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"process {process.pid}"


def socket_folders() -> set[Path]:
    """Return the folders of private sockets, and those of multiprocessing's own."""
    home = Path(tempfile.gettempdir())
    return {*home.glob("grove-????????"), *home.glob("pymp-????????")}
