"""A lane that hangs is noticed: nothing else would be, because its thread says nothing any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

_LOOKS = 8
"""Looks within the longest time a batch may take."""
_MOST_S = 1.0
"""Longest pause between two looks."""


class Watched(Protocol):
    """What is looked at: a lane."""

    @property
    def progress(self) -> int: ...


class Watchdog(threading.Thread):
    """Calls `hung` once when a lane's batch has been under way for `after_s` seconds without any progress.

    Looks are counted rather than seconds: a process that was stopped and goes on is not taken for a hanging one.
    """

    def __init__(self, lanes: Sequence[Watched], after_s: float, hung: Callable[[int], None]) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._lanes, self._hung = lanes, hung
        self._pause_s = min(_MOST_S, after_s / _LOOKS)
        self._most_looks = round(after_s / self._pause_s)
        self._seen = [-1] * len(lanes)
        self._looks = [0] * len(lanes)  # in which nothing moved
        self._ending = threading.Event()

    def run(self) -> None:
        """Look until stopped, or until a lane hangs."""
        while not self._ending.wait(self._pause_s):
            if self.look():
                return

    def look(self) -> bool:
        """Look once; return whether a lane was found hanging."""
        for index, lane in enumerate(self._lanes):
            progress = lane.progress
            self._looks[index] = self._looks[index] + 1 if 0 <= progress == self._seen[index] else 0
            self._seen[index] = progress
            if self._looks[index] >= self._most_looks:
                self._hung(index)
                return True
        return False

    def close(self) -> None:
        """Stop looking."""
        self._ending.set()
        if self.ident is not None:
            self.join()
