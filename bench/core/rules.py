"""Batching rules that ours is measured against: those of other programs, and the window that made the origin fail.

Each is our policy with its rule exchanged, so that transport, lanes, buckets and clients are the same and nothing but
the rule differs. All of them send off what waits when the server ends. None knows which clients may still send
something: that is what ours adds.

full-only      a batch leaves when it is full (AlphaZero.jl)
time-out-only  a batch leaves when its oldest row is older than `max_delay_us`
drain          a free lane takes whatever waits (KataGo)
1ms            a batch leaves when it is full or its oldest row is older than a millisecond (OpenSpiel)
adaptive-wait  a lane waits for a full batch; in vain, it takes one request and waits less the next time, but longer
               again when more came meanwhile (leela-zero)
always-waited  a lane waits ten milliseconds from the first row it sees, whatever comes (the origin's server)
"""

from __future__ import annotations

from collections.abc import Sequence

from grove.inference_server.batching.policy import Dispatch, Limits, Policy, Wait, Waiting

_MS = 1_000_000
RESCUE_NS = 50 * _MS
"""Longest wait of a row under `full-only`. The rule itself has none: with fewer rows in flight than the largest batch
it would wait for ever and could not be measured. Ten times our safety net, so that it is no rule of its own."""
SHORT_NS = 1 * _MS
"""OpenSpiel's fixed wait. There it begins when a lane takes the first row; from that row's arrival is never longer."""
WINDOW_NS = 10 * _MS
"""The origin's window, and leela-zero's first wait."""
LESS_NS, MORE_NS, LEAST_NS = 1 * _MS, 2 * _MS, 1 * _MS
"""leela-zero waits so much less after a wait in vain, so much more after each arrival meanwhile, and never less."""
_NEVER_NS = 1 << 62


class FullOnly(Policy):
    """A batch leaves when it is full; see `RESCUE_NS` for one that never gets full."""

    def _reason(self, queue: Waiting, now_ns: int) -> str | None:
        if self._draining:
            return "shutdown"
        if queue.rows >= self._top:
            return "full"
        return "delay" if now_ns >= self._due_ns(queue) else None

    def _due_ns(self, queue: Waiting) -> int:
        return queue.oldest_ns + RESCUE_NS


class OneMillisecond(FullOnly):
    """A batch leaves when it is full or a millisecond after its first row."""

    def _due_ns(self, queue: Waiting) -> int:
        return queue.oldest_ns + SHORT_NS


class TimeOutOnly(Policy):
    """A batch leaves when its oldest row is older than the longest delay, full or not."""

    def _reason(self, queue: Waiting, now_ns: int) -> str | None:
        if self._draining:
            return "shutdown"
        return "delay" if now_ns >= self._due_ns(queue) else None


class Drain(Policy):
    """A free lane takes whatever waits."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.reasons["free"] = 0

    def _reason(self, queue: Waiting, now_ns: int) -> str | None:
        return "shutdown" if self._draining else "free"


class _LaneClock(Policy):
    """Base of rules whose clock begins when a free lane sees rows, not when the rows arrive."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._began_ns: int | None = None  # None: no lane is free, or nothing waits

    def decide(self, waiting: Sequence[Waiting], now_ns: int) -> Dispatch | Wait:
        if not self._free or not waiting:
            self._began_ns = None
        elif self._began_ns is None:
            self._began_ns = now_ns
        decision = super().decide(waiting, now_ns)
        if isinstance(decision, Dispatch):
            self._began_ns = None
        return decision

    def _reason(self, queue: Waiting, now_ns: int) -> str | None:
        if self._draining:
            return "shutdown"
        return "delay" if now_ns >= self._due_ns(queue) else None

    def _due_ns(self, queue: Waiting) -> int:
        return _NEVER_NS if self._began_ns is None else self._began_ns + self._window_ns()

    def _window_ns(self) -> int:
        raise NotImplementedError


class AlwaysWaited(_LaneClock):
    """A lane always waits the whole window.

    The origin's loop would have sent off a full batch of 512 before its time; its 32 clients with one row each never
    had one.
    """

    def _window_ns(self) -> int:
        return WINDOW_NS


class AdaptiveWait(_LaneClock):
    """A lane waits for a full batch, and takes one request when it waited in vain; the wait adapts.

    One request stands for leela-zero's single evaluation. As there, only one lane computes such a request at a time,
    and what arrives meanwhile shows that the wait was too short.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._wait_ns = WINDOW_NS
        self._alone: int | None = None  # lane that computes a single request
        self.reasons["single"] = 0

    def rows_arrived(self, client: int, now_ns: int) -> None:
        super().rows_arrived(client, now_ns)
        if self._alone is not None:
            self._wait_ns += MORE_NS

    def lane_free(self, lane: int) -> None:
        super().lane_free(lane)
        if lane == self._alone:
            self._alone = None

    def _reason(self, queue: Waiting, now_ns: int) -> str | None:
        if self._draining:
            return "shutdown"
        if queue.rows >= self._top:
            return "full"
        if now_ns < self._due_ns(queue):
            return None
        if self._alone is not None:
            self._began_ns = now_ns  # another lane computes a single request: wait once more
            return None
        return "single"

    def _dispatch(self, queue: Waiting, reason: str, now_ns: int) -> Dispatch:
        decision = super()._dispatch(queue, reason, now_ns)
        if reason == "single":
            self._alone = decision.lane
            self._wait_ns = max(self._wait_ns - LESS_NS, LEAST_NS)
        return decision

    def _batch_rows(self, queue: Waiting, reason: str) -> int:
        if reason == "single":
            return min(queue.oldest_rows, self._top)
        return super()._batch_rows(queue, reason)

    def _window_ns(self) -> int:
        return self._wait_ns
