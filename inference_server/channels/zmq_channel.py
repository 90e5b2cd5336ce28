"""The server's end of the ZeroMQ channel: one ROUTER socket and the thread that owns it.

The thread receives in bounded bursts, puts rows into the pending batch straight from the received frame, and sends
replies that the lanes left in a queue. A fault in a message is answered to its sender, counted, and touches nobody
else; `rate_limiter.py` bounds what faults and the like may cost. A client whose connection breaks stops counting at
once; it may return and ask again.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import zmq

from grove.common.errors import MessageError, ServerGone
from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.request import Request
from grove.inference_server.channels import protocol
from grove.inference_server.channels.keys import ServerKeys
from grove.inference_server.channels.listener import Bounds, Listener
from grove.inference_server.channels.rate_limiter import RateLimiter, RateLimits
from grove.inference_server.channels.sessions import PROVEN, Frames, Session, Sessions

_BURST = 64
"""Messages received before replies get their turn."""
_TICK_MS = 250
"""Longest sleep of the thread: how often silent clients are looked for."""
_MOST_FRAMES = 5
"""Frames of the longest message: routing id, header, rows, legal offsets and actions."""
_HALF_MAX = 65504.0
"""Largest finite float16."""


class ZmqChannel:
    """Listens on one endpoint and feeds one batcher."""

    def __init__(
        self,
        batcher: Batcher,
        endpoint: str,
        epoch: str,
        about: Callable[[], dict[str, Any]],
        keys: ServerKeys | None,
        shares: RateLimits,
    ) -> None:
        """Bind `endpoint` and start the thread; with `keys` only clients of their list are let in.

        `about` gives what READY and SERVED say of the models.

        Raises:
            SettingError: the endpoint is in use, malformed, or, without keys, not on this machine.
        """
        self._batcher = batcher
        self._epoch = epoch
        self._about = about
        bounds = Bounds.of(batcher.spec, batcher.settings)
        self._sessions = Sessions(batcher, bounds.unsent)
        self._outbox: deque[tuple[Session, Request]] = deque()
        self._allowance = RateLimiter(_TICK_MS * 1_000_000, shares)
        self._thrown_out: set[bytes] = set()  # senders in this tick
        self._unread = self._unanswered = 0  # messages in this tick
        self._stopping = False
        self._signalled = False
        self._listener = Listener(endpoint, keys, bounds, batcher.count_error)
        self._router = self._listener.router
        self.endpoint = self._listener.endpoint
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="zmq-channel", daemon=True)
        self._thread.start()

    # Called by other threads

    def close(self) -> None:
        """Stop the thread and free the endpoint. May be called twice."""
        self._stopping = True
        self._wake()
        self._thread.join()

    def flush(self, timeout_s: float) -> bool:
        """Wait until the queue of replies is empty; return whether it is."""
        deadline = time.monotonic() + timeout_s
        while self._outbox and time.monotonic() < deadline:
            self._wake()
            time.sleep(0.001)
        return not self._outbox

    def _answered(self, session: Session, request: Request) -> None:
        self._outbox.append((session, request))
        if not self._signalled:
            self._signalled = True
            self._wake()

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"\0")
        except OSError:  # full: the thread is about to wake anyway; or closed: it has ended
            return

    # The thread

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._router, self._wake_out, self._listener.events):
            poller.register(source, zmq.POLLIN)
        next_tick_ns = 0
        try:
            while not self._stopping:
                ready = {source for source, _ in poller.poll(_TICK_MS)}
                if self._wake_out.fileno() in ready:
                    self._wake_out.recv(4096)
                self._send_replies()
                if self._listener.events in ready:
                    self._see_who_went()
                if self._router in ready:
                    self._receive()
                if time.monotonic_ns() >= next_tick_ns:
                    self._tick()
                    next_tick_ns = time.monotonic_ns() + _TICK_MS * 1_000_000
            self._send_replies()
        except Exception as error:  # nobody would answer any more
            self._batcher.break_down(f"the channel at {self.endpoint} has ended: {type(error).__name__}: {error}")
        finally:
            self._listener.close()
            self._wake_in.close()
            self._wake_out.close()

    def _tick(self) -> None:
        """Look for silent clients, offer slow ones their replies again, and read everybody again."""
        self._sessions.look_for_silent()
        for session in self._sessions.all():
            if session.unsent:
                self._send_unsent(session)
        for cause, times in (("unread", self._unread), ("unanswered", self._unanswered)):
            if times:
                self._batcher.count_error(cause, times)
        self._unread = self._unanswered = 0
        self._allowance.renew()
        self._thrown_out.clear()

    def _see_who_went(self) -> None:
        for fd in self._listener.gone():
            self._sessions.ended(fd)

    # Receiving

    def _receive(self) -> None:
        for _ in range(_BURST):
            if not protocol.has_message(self._router):
                return
            frames = self._next_message()
            routing = frames[0].bytes
            if not self._allowance.reads(routing):
                self._throw_out(routing, frames)
                continue
            began_ns = time.thread_time_ns()
            if not self._handle(routing, frames):
                self._allowance.charge(routing, time.thread_time_ns() - began_ns)

    def _throw_out(self, routing: bytes, frames: list[zmq.Frame]) -> None:
        """Leave a message unread and end its connection: that slows its sender down, reading on does not."""
        self._unread += 1
        if routing in self._thrown_out:
            return
        self._thrown_out.add(routing)
        self._see_who_went()
        fd = _connection(frames)
        other = self._sessions.on(fd)
        if other is None or other.routing == routing:  # otherwise the descriptor is another client's by now
            self._listener.end(fd)
            self._batcher.count_error("thrown_out")

    def _next_message(self) -> list[zmq.Frame]:
        """Return the next message, without the frames that no message may have."""
        frame = self._router.recv(copy=False)
        frames = [frame]
        while frame.more:
            frame = self._router.recv(copy=False)
            if len(frames) <= _MOST_FRAMES:
                frames.append(frame)
        return frames

    def _handle(self, routing: bytes, frames: list[zmq.Frame]) -> bool:
        """Carry out a message; return whether it brought new rows."""
        header: protocol.Header | None = None
        try:
            if not 2 <= len(frames) <= _MOST_FRAMES:
                raise MessageError("a message has a header frame and at most three others")
            header = protocol.unpack_header(frames[1].buffer)
            return self._act(routing, header, frames)
        except MessageError as error:
            self._batcher.count_error(
                "bad_header" if header is None else f"bad_{protocol.KIND_NAMES.get(header.kind, 'kind')}"
            )
            self._refuse(routing, header, protocol.ERROR, str(error))
        except ServerGone:  # draining: the client asks again, perhaps the next server
            self._batcher.count_error("draining")
        except Exception as error:  # a fault of ours: this message is lost, its sender asks again, the others live on
            self._batcher.count_error(f"channel:{type(error).__name__}")
        return False

    def _act(self, routing: bytes, header: protocol.Header, frames: list[zmq.Frame]) -> bool:
        if header.kind in (protocol.HELLO, protocol.ASK):
            if not self._allowance.answers(routing):
                self._unanswered += 1
            elif header.kind == protocol.HELLO:
                self._greet(routing, header, frames)
            else:
                self._tell(routing, header)
            return False
        session = self._sessions.get(routing)
        if session is None or session.sender[1] != header.epoch:
            self._answer(routing, [protocol.pack_header(protocol.UNKNOWN, (header.client, header.epoch))])
            return False
        session.heard_ns = time.monotonic_ns()
        if session.lost:
            self._found_again(session, frames)
        if session.unsent:
            self._send_unsent(session)
        if header.kind == protocol.ROWS:
            return self._take_rows(session, header, [frame.buffer for frame in frames[2:]])
        if header.kind == protocol.PING:
            self._answer(routing, [protocol.pack_header(protocol.PONG, session.sender)])
        elif header.kind == protocol.WINDOW:
            session.promised = min(header.rows, session.hello.window)
            if session.proven:
                self._batcher.set_window(session.client, session.promised)
        elif header.kind == protocol.RELEASE:
            self._batcher.release(session.client, header.slot)
        elif header.kind == protocol.BYE:
            self._sessions.forget(session)
        else:
            raise MessageError(f"message kind {header.kind} is not for a server")
        return False

    def _take_rows(self, session: Session, header: protocol.Header, frames: list[memoryview]) -> bool:
        """Put rows into the pending batch; return False for a request that came again."""
        if header.request in session.in_flight:
            self._batcher.count_resend()
            return False
        if header.request in session.replies:
            self._batcher.count_resend()
            self._answer(session.routing, session.replies[header.request])
            return False
        if len(session.in_flight) >= session.hello.window:
            raise MessageError(f"{session.hello.window} requests are outstanding already, the window said at HELLO")
        spec = self._batcher.spec
        self._batcher.check_slot(header.slot)
        rows = protocol.rows_of(header, frames, spec, session.hello.max_rows)
        request = Request(session.client, header.request, header.rows, protocol.legal_of(header, frames, spec))
        session.in_flight.add(header.request)
        try:
            self._batcher.submit(request, rows, header.slot)
        except Exception:  # not taken: the repeat is a new one
            session.in_flight.discard(header.request)
            raise
        session.taken += 1
        if session.taken == PROVEN:
            self._batcher.set_window(session.client, session.promised)
        return True

    # Clients come and go

    def _tell(self, routing: bytes, header: protocol.Header) -> None:
        answer = protocol.pack_header(protocol.SERVED, (header.client, header.epoch))
        self._send(routing, [answer, msgpack.packb({"rows": self._batcher.spec.to_dict(), **self._about()})])

    def _greet(self, routing: bytes, header: protocol.Header, frames: list[zmq.Frame]) -> None:
        if len(frames) != 3:
            raise MessageError("HELLO has one payload frame")
        hello = protocol.unpack_hello(frames[2].buffer)
        session = self._sessions.get(routing)
        if session is None or session.sender[1] != header.epoch or session.hello != hello:
            self._see_who_went()  # their places may be needed
            misfit = protocol.misfit(hello, self._batcher.spec, self._batcher.settings)
            misfit = misfit or self._sessions.no_room(routing, hello)
            if misfit:
                self._batcher.count_error("refused_hello")
                self._refuse(routing, header, protocol.REFUSED, misfit)
                return
            session = self._sessions.admit(routing, (header.client, header.epoch), hello, self._answered)
        session.heard_ns = time.monotonic_ns()
        self._found_again(session, frames)
        ready = {
            "server_epoch": self._epoch,
            **self._about(),
            "max_window": self._batcher.settings.max_window,
            "max_request_rows": self._batcher.settings.max_request_rows,
        }
        self._send(routing, [protocol.pack_header(protocol.READY, session.sender), msgpack.packb(ready)])

    def _found_again(self, session: Session, frames: list[zmq.Frame]) -> None:
        """Learn which connection the client is on, so that its end tells who was lost."""
        self._see_who_went()  # ends of earlier connections on the same descriptor come before this message
        self._sessions.found(session, _connection(frames))

    # Sending

    def _send_replies(self) -> None:
        self._signalled = False  # before the queue is emptied: what comes later wakes the thread again
        while self._outbox:
            session, request = self._outbox.popleft()
            session.unsent.append((request.id, _reply_frames(session, request)))
            self._send_unsent(session)

    def _send_unsent(self, session: Session) -> None:
        """Send what the client has room for; the rest counts as outstanding, so that its window bounds it."""
        while session.unsent:
            request, frames = session.unsent[0]
            if not self._send(session.routing, frames):
                return
            session.unsent.popleft()
            session.keep(request, frames)

    def _refuse(self, routing: bytes, header: protocol.Header | None, kind: int, reason: str) -> None:
        sender, request = ((header.client, header.epoch), header.request) if header else (("", 0), 0)
        self._answer(routing, [protocol.pack_header(kind, sender, request), reason.encode()])

    def _answer(self, routing: bytes, frames: Frames) -> None:
        """Answer a message that brought no new rows, unless such messages cost too much by now."""
        if self._allowance.answers(routing):
            self._send(routing, frames)
        else:
            self._unanswered += 1

    def _send(self, routing: bytes, frames: Frames) -> bool:
        """Send without waiting; return False when the client must read something first."""
        try:
            self._router.send(routing, protocol.SEND_MORE)
            protocol.send_frames(self._router, frames)
        except zmq.ZMQError as error:  # the client is gone or takes nothing; it may return and ask again
            gone = error.errno == zmq.EHOSTUNREACH
            self._batcher.count_error("unroutable" if gone else "unsendable")
            session = self._sessions.get(routing)
            if session is not None:
                self._sessions.lose(session)
            return gone
        return True


def _connection(frames: list[zmq.Frame]) -> int:
    """Return the descriptor of the connection that a message came over; -1 for a transport without descriptors."""
    try:
        return int(frames[-1].get(zmq.SRCFD))
    except (zmq.ZMQError, ValueError):
        return -1


def _reply_frames(session: Session, request: Request) -> Frames:
    reply = request.reply()
    logits = reply.logits
    if session.hello.logits == "float16":
        logits = np.clip(logits, -_HALF_MAX, _HALF_MAX).astype(np.float16)
    header = protocol.pack_header(protocol.REPLY, session.sender, request.id, request.slot, request.rows)
    return [header, protocol.pack_reply(reply), _compact(logits), _compact(reply.values)]


def _compact(answer: npt.NDArray[np.floating]) -> memoryview:
    """Return an answer as it is sent and kept; a small slice is copied, so that it keeps no whole batch alive."""
    whole = answer.base
    if isinstance(whole, np.ndarray) and whole.nbytes > 2 * answer.nbytes:
        answer = answer.copy()
    return answer.data
