"""Where child processes come from: two that have loaded what is slow to load, and are forked in milliseconds.

`SERVERS` has torch, `WORKERS` the game's kernels, which a worker needs, and no torch, which it does not. Both load side
by side, and each child is a fork of one of them. They are forkservers of multiprocessing, which knows of one only; so
the other one takes its place while a child is started. Where there is no fork, children are spawned and load by
themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker, spawn, util
from pathlib import Path
from typing import Any

import psutil

from grove.common.errors import PoolError
from grove.common.scratch import claim, is_claimed, sweep
from grove.workers.pool.children import Child
from grove.workers.pool.parent_watch import FOLDER_VARIABLE

GAME_VARIABLE = "GROVE_PRELOAD_GAME"
"""Environment variable that names the game whose kernels `grove.workers.pool.preload` loads."""
_GLANCE_S = 0.05
_FORKS = "forkserver" in multiprocessing.get_all_start_methods()
_starting = threading.Lock()


class ForkServer:
    """A process that loads something once, for all that are forked from it. It ends with the process that began it."""

    def __init__(self, server: forkserver.ForkServer, preload: str, loads: str) -> None:
        """Nothing is started. `preload`: the module that it imports. `loads`: what that loads, in words."""
        self._server, self._preload, self._loads = server, preload, loads
        self._owner = 0
        self._context: Any = multiprocessing.get_context("forkserver" if _FORKS else "spawn")

    @property
    def pid(self) -> int | None:
        """Its process number once it has begun."""
        return getattr(self._server, "_forkserver_pid", None)

    def begin(self) -> None:
        """Let it load, without waiting for it; one that has begun and lives goes on, and one that somebody stopped is
        replaced.

        SIGINT is blocked in it: Ctrl-C reaches the whole terminal. Raises PoolError in a fork of whoever began it.
        """
        if not _FORKS:
            return
        if self.pid is not None and self._owner != os.getpid():
            limit = "this process was forked from one that has started workers"
            raise PoolError(f"{limit}; start it by the method spawn or forkserver of multiprocessing")
        self._owner = os.getpid()
        if self.pid is not None and _is_stopped(self.pid):
            self._kill()
        folder = Path(util.get_temp_dir())  # where its socket will be
        os.environ[FOLDER_VARIABLE] = str(folder)
        if not is_claimed(folder):
            sweep()
            claim(folder)  # until this process ends
        self._server.set_forkserver_preload([self._preload])
        with _safe_path():
            resource_tracker.ensure_running()  # started by the forkserver otherwise, which would unblock SIGINT
            former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._server.ensure_running()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def start(self, main: Callable[..., None], arguments: tuple[Any, ...], name: str) -> Child:
        """Start a child that calls `main(*arguments)`. Raises PoolError when it cannot be started."""
        child = self.start_unless(lambda: False, main, arguments, name)
        assert child is not None, "nothing interrupts it"
        return child

    def start_unless(
        self, interrupted: Callable[[], bool], main: Callable[..., None], arguments: tuple[Any, ...], name: str
    ) -> Child | None:
        """Start a child that calls `main(*arguments)`; None when `interrupted` said so first.

        It starts nothing before it has loaded: with an empty cache of kernels a minute or two.

        Raises PoolError when it has ended instead.
        """
        if interrupted():
            return None
        self.begin()
        process = self._context.Process(target=main, args=arguments, name=name)
        with ThreadPoolExecutor(1, "start-child") as threads:
            starting = threads.submit(self._start, process)
            while not starting.done() and not interrupted():
                wait([starting], _GLANCE_S)
            if not starting.done():
                self._kill()
        fault = starting.exception()
        if fault is None:
            return Child(process)
        if interrupted():
            return None
        why = f"the process that starts others has ended while it loaded {self._loads}"
        if not isinstance(fault, EOFError | ConnectionError):
            why = f"a process cannot be started ({fault})"
        raise PoolError(f"{why}; see `grove doctor`") from fault

    def _start(self, process: Any) -> None:
        """Let multiprocessing fork `process` from this one."""
        with _starting:
            former = forkserver.connect_to_new_process, spawn.get_preparation_data
            forkserver.connect_to_new_process = self._server.connect_to_new_process
            spawn.get_preparation_data = lambda name: _without_main(former[1](name))
            try:
                process.start()
            finally:
                forkserver.connect_to_new_process, spawn.get_preparation_data = former

    def _kill(self) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # multiprocessing shall find it dead, too


def _without_main(data: dict[str, Any]) -> dict[str, Any]:
    """Return what a child is told of its parent, without the script that it would run again: it may be anything."""
    return {key: value for key, value in data.items() if not key.startswith("init_main_")}


@contextmanager
def _safe_path() -> Iterator[None]:
    """Let Python processes started meanwhile import nothing from the current folder, whatever is called torch there."""
    former = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = former or "1"
    try:
        yield
    finally:
        if former is None:
            del os.environ["PYTHONSAFEPATH"]


def _is_stopped(number: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(number).status() == psutil.STATUS_STOPPED)
    return False


WORKERS = ForkServer(forkserver._forkserver, "grove.workers.pool.preload", "the game's kernels")
SERVERS = ForkServer(forkserver.ForkServer(), "grove.workers.pool.preload_server", "torch")


def fork_server_of(game_spec: str) -> ForkServer:
    """Return `WORKERS`; if it has not begun, it will load the kernels of this game."""
    os.environ[GAME_VARIABLE] = game_spec
    return WORKERS
