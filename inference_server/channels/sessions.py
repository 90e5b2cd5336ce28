"""The clients of a ZeroMQ channel: what each may hold, and how many there may be.

A client's memory is reserved at its HELLO: its window and its largest request say how much it can ever make the server
hold. Together the reservations stay below `max_clients_mb`, the clients below `max_clients`. When there is no room, the
places of lost clients are given up, the longest silent first; then newcomers are refused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.request import ClientHandle, Request
from grove.inference_server.channels import protocol
from grove.inference_server.channels.listener import answer_bytes
from grove.inference_server.interface.rows import RowSpec

Frames = list[bytes | memoryview]

MISSED_PINGS = 3
PROVEN = 16
"""Requests after which a client is believed to keep its window full, so that batches wait for its rows."""


class Session:
    """One client: its place at the batcher, what is under way for it, and its latest replies."""

    def __init__(self, routing: bytes, sender: protocol.Sender, hello: protocol.Hello, reserved: int) -> None:
        self.routing = routing
        self.sender = sender
        self.hello = hello
        self.reserved = reserved  # bytes
        self.client: ClientHandle  # given when the session is admitted
        self.promised = hello.window  # requests that it will keep outstanding
        self.taken = 0  # requests
        self.in_flight: set[int] = set()  # requests whose reply was not sent yet
        self.unsent: deque[tuple[int, Frames]] = deque()  # replies that the client has no room for
        self.replies: dict[int, Frames] = {}  # the last `window` ones: all a client can have missed
        self.fd = -1
        self.lost = False
        self.heard_ns = time.monotonic_ns()

    @property
    def proven(self) -> bool:
        """Whether batches wait for the client's rows: not for those of strangers, who may have come to hold us up."""
        return self.taken >= PROVEN

    def keep(self, request: int, frames: Frames) -> None:
        """Remember a reply in case it is asked for again."""
        self.in_flight.discard(request)
        self.replies[request] = frames
        if len(self.replies) > self.hello.window:
            del self.replies[next(iter(self.replies))]


def reservation(hello: protocol.Hello, spec: RowSpec, unsent: int) -> int:
    """Return the bytes a client can make the server hold, when `unsent` messages may wait for it to read them.

    A row waits with its legal actions; an answer is computed, kept until sent, kept in case it is asked for again, and
    lies unread in the socket. A cached answer may be a slice that keeps twice its size alive (`compact`).
    """
    row = spec.row_bytes + 4 * spec.num_actions + 8
    return hello.max_rows * (hello.window * row + (4 * hello.window + unsent) * answer_bytes(spec))


class Sessions:
    """All clients of one channel, by routing id and by connection."""

    def __init__(self, batcher: Batcher, unsent: int) -> None:
        """`unsent` messages may wait for a client to read them."""
        self._batcher = batcher
        self._unsent = unsent
        self._by_routing: dict[bytes, Session] = {}
        self._by_fd: dict[int, Session] = {}
        self._lost: dict[bytes, Session] = {}  # of those by routing id, the longest lost first
        self._reserved = 0  # bytes, of all
        self._leaving: list[Session] = []  # forgotten, but rows of theirs are still on their way

    def all(self) -> list[Session]:
        """Return the clients in a new list."""
        return list(self._by_routing.values())

    def get(self, routing: bytes) -> Session | None:
        """Return the client of that routing id."""
        return self._by_routing.get(routing)

    def no_room(self, routing: bytes, hello: protocol.Hello) -> str:
        """Make room for a client; return why there is none, with the remedy, or nothing."""
        if routing in self._by_routing:  # a new life of a client we know
            self.forget(self._by_routing[routing])
        settings = self._batcher.settings
        most, needed = settings.max_clients_mb << 20, reservation(hello, self._batcher.spec, self._unsent)
        self._let_leave()
        while self._places() >= settings.max_clients or self._reserved + needed > most:
            if not self._lost:
                return (
                    f"{self._places()} clients may hold {self._reserved >> 20} MB here, you would need "
                    f"{-(-needed >> 20)} MB more; raise the server's max_clients ({settings.max_clients}) or "
                    f"max_clients_mb ({settings.max_clients_mb}), or send fewer rows at once"
                )
            self.forget(next(iter(self._lost.values())))
        return ""

    def _places(self) -> int:
        return len(self._by_routing) + len(self._leaving)

    def _let_leave(self) -> None:
        """Give back what was reserved for those whose last row has left."""
        leaving, self._leaving = self._leaving, []
        for session in leaving:
            if session.client.outstanding:
                self._leaving.append(session)
            else:
                self._reserved -= session.reserved

    def admit(
        self,
        routing: bytes,
        sender: protocol.Sender,
        hello: protocol.Hello,
        deliver: Callable[[Session, Request], None],
    ) -> Session:
        """Give a client a place, after `no_room` found one; `deliver` gets its answered requests.

        Raises:
            ServerGone: the server is ending.
        """
        session = Session(routing, sender, hello, reservation(hello, self._batcher.spec, self._unsent))
        session.client = ClientHandle(sender[0], hello.spec, lambda request: deliver(session, request))
        self._batcher.join(session.client, 0)
        self._by_routing[routing] = session
        self._reserved += session.reserved
        return session

    def on(self, fd: int) -> Session | None:
        """Return the client on the connection with that descriptor."""
        return self._by_fd.get(fd)

    def found(self, session: Session, fd: int) -> None:
        """The client is on the connection with that descriptor (-1: unknown, its pings must do)."""
        session.lost = False
        self._lost.pop(session.routing, None)
        session.fd = fd
        if fd >= 0:
            self._by_fd[fd] = session

    def ended(self, fd: int) -> None:
        """The connection with that descriptor is over."""
        session = self._by_fd.pop(fd, None)
        if session is not None:
            self.lose(session)

    def lose(self, session: Session) -> None:
        """Nobody waits for the client's rows any more; it may return."""
        session.lost = True
        self._lost.setdefault(session.routing, session)
        self._batcher.quiet(session.client)

    def forget(self, session: Session) -> None:
        """The client is gone for good."""
        self._batcher.leave(session.client)
        self._by_routing.pop(session.routing, None)
        self._lost.pop(session.routing, None)
        if self._by_fd.get(session.fd) is session:
            del self._by_fd[session.fd]
        if session.client.outstanding:
            self._leaving.append(session)
        else:
            self._reserved -= session.reserved

    def look_for_silent(self) -> None:
        """Lose clients that missed their pings, forget those that stayed away."""
        settings, now_ns = self._batcher.settings, time.monotonic_ns()
        for session in self.all():
            silent_ns = now_ns - session.heard_ns
            if silent_ns > settings.forget_after_s * 1_000_000_000:
                self.forget(session)
            elif silent_ns > MISSED_PINGS * settings.ping_interval_ms * 1_000_000 and not session.lost:
                self.lose(session)
