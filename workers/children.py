"""Child processes: how they start, and how they are made to end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from workers.warm import GAME_VARIABLE


def process_context(game_spec: str) -> Any:
    """Return the forkserver context with the game's kernels preloaded, or spawn where there is none."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    os.environ[GAME_VARIABLE] = game_spec
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workers.preload"])
    return context


def start_forkserver(context: Any) -> None:
    """Start the forkserver with SIGINT blocked: Ctrl-C reaches the whole terminal, also while it loads the kernels."""
    if context.get_start_method() != "forkserver":
        return
    resource_tracker.ensure_running()  # started by the forkserver otherwise, which would unblock SIGINT
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def end_process(process: BaseProcess, patience_s: float) -> None:
    """Wait `patience_s` for a process to end by itself, then kill it."""
    process.join(patience_s)
    if process.is_alive():
        process.kill()
        process.join()


def remove_socket_folder(endpoint: str) -> None:
    """Remove the private socket's folder in place of a server that was killed; it removes it itself as a rule."""
    if endpoint.startswith("ipc://"):
        shutil.rmtree(Path(endpoint.removeprefix("ipc://")).parent, ignore_errors=True)
