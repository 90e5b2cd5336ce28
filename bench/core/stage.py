"""A part of self-play in a process of its own: it gets ready, holds still, and measures for a slice when told."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any, Protocol

from grove.common.errors import PoolError
from grove.workers.pool.fork_server import fork_server_of
from grove.workers.selfplay.control_pipe import ControlPipe, error_line

_READY_S = 120.0
"""Longest wait for a part to be ready: kernels of a new game may have to be compiled."""
_SLACK_S = 60.0
"""Longest wait for figures beyond the slice itself."""
_IDLE_S = 60.0
_EXIT_S = 5.0

Figures = Mapping[str, float]


class Part(Protocol):
    """What runs in the process."""

    def ready(self) -> dict[str, Any]:
        """Return what the supervisor should know, plain values."""
        ...

    def measure(self, what: str, seconds: float) -> Figures:
        """Work for about `seconds` and return counts and `seconds` of the work."""
        ...


class Job(Protocol):
    """Which part it is; plain values that make it in its process."""

    def make(self) -> AbstractContextManager[Part]:
        """Return the part, to be entered in its process."""
        ...


class Stage:
    """The supervisor's end of one part; use as a context manager."""

    def __init__(self, name: str, job: Job, game_spec: str) -> None:
        """Start the process; see `wait_ready`. `game_spec` names the kernels that are loaded ahead."""
        mine, theirs = multiprocessing.Pipe()
        self._name, self._pipe = name, ControlPipe(mine)
        self._child = fork_server_of(game_spec).start(main, (job, theirs), f"grove-{name}")
        theirs.close()

    @property
    def processes(self) -> list[int]:
        """Its process number."""
        return [self._child.pid]

    def wait_ready(self, limit_s: float = _READY_S) -> dict[str, Any]:
        """Wait until it can measure and return what it says. Raises PoolError with its own words when it cannot."""
        return dict(self._expect("ready", limit_s))

    def begin(self, what: str, seconds: float) -> None:
        """Let it measure; several stages may measure at once."""
        self._pipe.send("measure", what, seconds)

    def end(self, seconds: float) -> Figures:
        """Return the figures of what was begun, `seconds` of it. Raises PoolError when the process failed."""
        return dict(self._expect("figures", seconds + _SLACK_S))

    def measure(self, what: str, seconds: float) -> Figures:
        """Measure for a slice and return the figures. Raises PoolError when the process failed."""
        self.begin(what, seconds)
        return self.end(seconds)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("stop")
        self._child.end(_EXIT_S)
        self._pipe.close()

    def _expect(self, kind: str, limit_s: float) -> Any:
        message = self._pipe.receive(limit_s)
        if message is None:
            raise PoolError(f"the {self._name} alone gave no {kind} within {limit_s:.0f} s")
        if message[0] != kind:
            raise PoolError(str(message[1]) if len(message) > 1 else f"the process of the {self._name} has ended")
        return message[1]


def main(job: Job, connection: Connection) -> None:
    """Make the part, then measure on demand until told to stop or the supervisor is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = ControlPipe(connection)
    try:
        with job.make() as part:
            pipe.send("ready", part.ready())
            while True:
                message = pipe.receive(_IDLE_S)
                if message is None:
                    continue
                if message[0] == "stop":
                    return
                pipe.send("figures", dict(part.measure(*message[1:])))
    except Exception as error:
        pipe.send("failed", error_line(error))
    finally:
        pipe.close()
