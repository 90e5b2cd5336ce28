"""Which game indices are to be played, who plays them, and which are done. A pure state machine."""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class GameScheduler:
    """Hands out the indices of `wanted`, each to one worker at a time, lowest first, until each is finished once."""

    def __init__(self, wanted: range, done: Iterable[int] = ()) -> None:
        """`done`: indices finished in earlier runs; those outside `wanted` do not count."""
        self.wanted = wanted
        self._done = {index for index in done if index in wanted}
        self._next = wanted.start
        self._returned: list[int] = []
        self._held: dict[int, set[int]] = {}

    @property
    def finished(self) -> int:
        """Games finished, earlier runs included."""
        return len(self._done)

    @property
    def left(self) -> int:
        """Games not finished."""
        return len(self.wanted) - len(self._done)

    @property
    def unassigned(self) -> int:
        """Games not finished that nobody plays."""
        return self.left - sum(map(len, self._held.values()))

    def held_by(self, worker: int) -> int:
        """Return how many indices `worker` holds."""
        return len(self._held.get(worker, ()))

    def hand_out(self, worker: int, count: int) -> list[int]:
        """Give up to `count` indices to `worker`; fewer, or none, when no more are left."""
        given: list[int] = []
        while len(given) < count:
            index = self._take()
            if index is None:
                break
            given.append(index)
        self._held.setdefault(worker, set()).update(given)
        return given

    def finish(self, worker: int, indices: Iterable[int]) -> None:
        """Book games that `worker` has written to its log."""
        for index in indices:
            self._held.get(worker, set()).discard(index)
            self._done.add(index)

    def lose(self, worker: int) -> int:
        """Take back what a dead worker held, to be played by others; return how many."""
        lost = self._held.pop(worker, set())
        for index in lost:
            heapq.heappush(self._returned, index)
        return len(lost)

    def _take(self) -> int | None:
        if self._returned:
            return heapq.heappop(self._returned)
        while self._next < self.wanted.stop:
            index = self._next
            self._next += 1
            if index not in self._done:
                return index
        return None


def share(scheduler: GameScheduler, workers: int, capacity: int, held: int) -> int:
    """Return how many more indices a worker with room for `capacity` games should get, of `workers` alive.

    It may hold a small reserve, so that a free place need not wait for the supervisor, while there is plenty; near the
    end every worker gets an even part, so that none is left with a queue while others idle.
    """
    even = -(-scheduler.left // workers)
    reserved = capacity + max(2, capacity // 8)
    plenty = even > 2 * capacity and scheduler.left >= workers * reserved
    wanted = reserved if plenty else min(capacity, even)
    return max(0, min(wanted - held, scheduler.unassigned))
