"""When a batch leaves: a pure state machine without a socket, a clock or a thread.

Events are method calls (rows arrived, client blocked / idle / gone, reply delivered, lane free / busy) with the time
given as an argument in nanoseconds; `decide` is shown the waiting rows and answers with a `Dispatch` or a `Wait`. Rows
are counted, never requests. A batch leaves when a lane is free and, for the weights whose oldest row is oldest,

    full          its rows reach the top bucket, or
    all_blocked   every live client already waits for as many answers as it ever will, or
    quarter_full  its rows reach a quarter of the top bucket: a lane costs more idle than so large a batch wastes, or
    delay         its oldest row is older than the longest delay (the safety net), or
    shutdown      the server is ending.

While all lanes are busy the rows keep gathering. Every event costs a few dictionary operations; only a `delay`
dispatch looks at all clients, to stop counting those that fell silent. Where the lanes are always filled, KataGo's rule
(a free lane takes whatever waits) does as well; these rules win where fewer rows are in flight than the largest batch
holds, because they know which clients may still send some (docs/performance.md).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

REASONS = ("full", "all_blocked", "quarter_full", "delay", "shutdown")

_QUARTER = 4
"""The top bucket divided by this is what a free lane takes at once. On two cores with 2,048 games in flight, one worker
gained by it beside rules that never wait; with 4 to 32 workers no gain was shown (docs/log.md, 2026-11-26)."""


class Dispatch(NamedTuple):
    """Run the `rows` oldest rows for `weights` on lane `lane`, padded to `bucket` rows."""

    lane: int
    weights: int
    rows: int
    bucket: int
    reason: str


class Wait(NamedTuple):
    """Nothing to dispatch now; ask again at `until_ns` at the latest (None: not before the next event)."""

    until_ns: int | None


NO_WAKE_UP = Wait(None)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The numbers the policy goes by."""

    buckets: Sequence[int]
    """Batch sizes a lane computes, ascending rows; the last is the top bucket."""
    max_delay_ns: int
    """Longest wait of a row while a lane is free."""
    idle_after_ns: int
    """Silence after which a client that owes rows leaves the saturation rule."""
    min_share_rows: int
    """Fewest rows worth a lane of their own when rows are shared."""


class _Client:
    """What is known of one client: the promise it made, what it waits for and when it was last heard of."""

    __slots__ = ("blocked", "last_ns", "live", "outstanding", "window")

    def __init__(self, window: int) -> None:
        self.window = window  # requests it will keep outstanding; 0 = idle
        self.outstanding = 0  # requests sent and not yet answered
        self.blocked = False  # known to send nothing before its next answer
        self.live = False  # counts in the saturation rule
        self.last_ns = 0  # time of its last request or answer

    @property
    def owes(self) -> bool:
        """Whether rows are expected from it although nothing is answered."""
        return self.live and not self.blocked and self.outstanding < self.window


class Waiting(Protocol):
    """The waiting rows, at least one, for one set of weights."""

    weights: int
    rows: int

    @property
    def oldest_ns(self) -> int: ...

    @property
    def oldest_rows(self) -> int: ...


class Policy:
    """Decides which rows leave for which lane, and when."""

    def __init__(self, limits: Limits) -> None:
        self._buckets = tuple(limits.buckets)
        self._top = self._buckets[-1]
        self._limits = limits
        self._clients: dict[int, _Client] = {}
        self._owing = 0  # clients that owe rows: the saturation rule holds at 0
        self._free: list[int] = []  # lanes, most recently freed last
        self._draining = False
        self.reasons = dict.fromkeys(REASONS, 0)
        """Dispatches by reason since the start."""

    # Events: clients

    def client_joined(self, client: int, window: int) -> None:
        """A client promised to keep up to `window` requests outstanding; it counts from its first rows on."""
        self._clients[client] = _Client(window)

    def rows_arrived(self, client: int, now_ns: int) -> None:
        """One request came in."""
        state = self._clients[client]
        owed = state.owes
        state.live = True
        state.blocked = False
        state.outstanding += 1
        state.last_ns = now_ns
        self._owing += state.owes - owed

    def reply_delivered(self, client: int, now_ns: int) -> None:
        """One of the client's requests was answered; a client that left is ignored."""
        state = self._clients.get(client)
        if state is None:
            return
        owed = state.owes
        state.outstanding -= 1
        state.blocked = False
        state.last_ns = now_ns
        self._owing += state.owes - owed

    def client_blocked(self, client: int, blocked: bool = True) -> None:
        """The client is known to send nothing before its next answer (or, with False, no longer)."""
        self._change(client, blocked=blocked)

    def window_changed(self, client: int, window: int) -> None:
        """The client will keep up to `window` requests outstanding from now on; 0 means idle."""
        self._change(client, window=window)

    def client_left(self, client: int) -> None:
        """The client is gone for good. Its rows still waiting are computed; nobody is answered."""
        state = self._clients.pop(client, None)
        if state is not None:
            self._owing -= state.owes

    def _change(self, client: int, **fields: int) -> None:
        state = self._clients.get(client)
        if state is None:
            return
        owed = state.owes
        for name, value in fields.items():
            setattr(state, name, value)
        self._owing += state.owes - owed

    # Events: lanes, the device and the end

    def lane_free(self, lane: int) -> None:
        """The lane can take a batch."""
        self._free.append(lane)

    def lane_busy(self, lane: int) -> None:
        """A free lane withdrew (it has other work, or ends)."""
        if lane in self._free:
            self._free.remove(lane)

    def limit_rows(self, rows: int) -> None:
        """From now on a batch has at most `rows` rows, one of the bucket sizes: the device has no room for more."""
        self._buckets = tuple(bucket for bucket in self._buckets if bucket <= rows)
        self._top = self._buckets[-1]

    def drain(self) -> None:
        """From now on whatever waits leaves at once."""
        self._draining = True

    # Decisions

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes in use, ascending rows."""
        return self._buckets

    @property
    def live_clients(self) -> int:
        """Clients that count in the saturation rule."""
        return sum(client.live for client in self._clients.values())

    @property
    def next_lane(self) -> int:
        """The free lane the next dispatch goes to; only when `decide` gave a time to wait until."""
        return self._free[-1]

    def decide(self, waiting: Sequence[Waiting], now_ns: int) -> Dispatch | Wait:
        """Return the next dispatch, or how long nothing needs to be done; call again after every dispatch.

        `waiting`: the rows that wait for each set of weights, the oldest first. Those dispatched leave it.
        """
        if not self._free or not waiting:
            return NO_WAKE_UP
        for queue in waiting:
            reason = self._reason(queue, now_ns)
            if reason:
                return self._dispatch(queue, reason, now_ns)
        return Wait(min(map(self._due_ns, waiting)))

    def _reason(self, queue: Waiting, now_ns: int) -> str | None:
        complete = self._draining or self._owing == 0  # nothing more will come: share what there is
        if queue.rows >= self._top * (len(self._free) if complete else 1):
            return "full"
        if complete:
            return "shutdown" if self._draining else "all_blocked"
        if queue.rows >= max(self._top // _QUARTER, self._limits.min_share_rows):
            return "quarter_full"
        return "delay" if now_ns >= self._due_ns(queue) else None

    def _due_ns(self, queue: Waiting) -> int:
        """When the oldest rows of `queue` have waited long enough."""
        return queue.oldest_ns + self._limits.max_delay_ns

    def _dispatch(self, queue: Waiting, reason: str, now_ns: int) -> Dispatch:
        if reason == "delay":
            self._expire(now_ns)
        rows = self._batch_rows(queue, reason)
        self.reasons[reason] += 1
        bucket = self._buckets[bisect_left(self._buckets, rows)]
        return Dispatch(self._free.pop(), queue.weights, rows, bucket, reason)

    def _batch_rows(self, queue: Waiting, reason: str) -> int:
        """How many of the queue's rows leave together for `reason`."""
        return self._share(queue.rows) if reason in {"all_blocked", "shutdown"} else min(queue.rows, self._top)

    def _share(self, rows: int) -> int:
        """An even share of `rows` for one of the free lanes: whole buckets, never below the least worthwhile share."""
        even = -(-rows // len(self._free))
        place = bisect_left(self._buckets, max(even, self._limits.min_share_rows))
        return min(rows, self._buckets[min(place, len(self._buckets) - 1)])

    def _expire(self, now_ns: int) -> None:
        """Stop counting clients that owe rows and have been silent too long."""
        horizon = now_ns - self._limits.idle_after_ns
        for client in self._clients.values():
            if client.owes and client.last_ns <= horizon:
                client.live = False
                self._owing -= 1


PolicyKind = Callable[[Limits], Policy]
"""What makes a server's policy: :class:`Policy` itself, or a kind of it that is measured against it."""
