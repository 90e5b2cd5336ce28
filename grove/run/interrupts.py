"""How the user ends a run from outside: the first signal ends it cleanly, the second at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Self

STOPPED = 130
"""Exit status after the second signal, as of a program that Ctrl-C ended."""
_ENOUGH = 3
"""Signals from which the process ends wherever it is."""


class Interrupts:
    """Counts Ctrl-C, SIGTERM and SIGHUP while it is entered, which is as soon as there is something to lose."""

    def __init__(self, drain: bool) -> None:
        """`drain`: the games in progress are to be finished after the first signal."""
        self.drain = drain
        self.count = 0
        self.end_now: Callable[[], None] = lambda: None
        """Called at the second signal, by the signal handler."""

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
            numbers.append(signal.SIGHUP)
        self._former = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            self.end_now()
        if self.count >= _ENOUGH:
            raise KeyboardInterrupt
