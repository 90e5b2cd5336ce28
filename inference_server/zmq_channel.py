"""The server's end of the ZeroMQ channel: one ROUTER socket and the thread that owns it.

The thread receives in bounded bursts, puts rows into the forming batch straight from the received frame, and sends
replies that the lanes left in a queue. A fault in a message is answered to its sender, counted, and touches nobody
else. A client whose connection breaks stops counting at once; it may return and ask again.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable

import msgpack
import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from common.errors import MessageError, ServerGone, SettingError
from inference_server import wire
from inference_server.batcher import Batcher
from inference_server.endpoint import check_endpoint, in_use, lock_endpoint, unlock_endpoint
from inference_server.request import Port, Request

_BURST = 64
"""Messages received before replies get their turn."""
_TICK_MS = 250
"""Longest sleep of the thread: how often silent clients are looked for."""
_LINGER_MS = 500
_MISSED_PINGS = 3
_HALF_MAX = 65504.0
"""Largest finite float16."""

Frames = list[bytes | memoryview]


class _Session:
    """One client: its place at the batcher, what is under way for it, and its latest replies."""

    def __init__(self, routing: bytes, name: str, epoch: int, hello: wire.Hello) -> None:
        self.routing = routing
        self.sender = name, epoch
        self.hello = hello
        self.port: Port  # given when the session is admitted
        self.in_flight: set[int] = set()
        self.replies: dict[int, Frames] = {}  # the last `window` ones: all a client can have missed
        self.fd = -1
        self.lost = False
        self.heard_ns = 0

    def keep(self, request: int, frames: Frames) -> None:
        """Remember a reply in case it is asked for again."""
        self.in_flight.discard(request)
        self.replies[request] = frames
        if len(self.replies) > self.hello.window:
            del self.replies[next(iter(self.replies))]


class ZmqChannel:
    """Listens on one endpoint and feeds one batcher."""

    def __init__(self, batcher: Batcher, endpoint: str, epoch: str, version: Callable[[], str]) -> None:
        """Bind `endpoint` and start the thread.

        Raises:
            SettingError: the endpoint is in use, malformed, or not on this machine.
        """
        check_endpoint(endpoint)
        self._batcher = batcher
        self._epoch = epoch
        self._version = version
        self._sessions: dict[bytes, _Session] = {}
        self._by_fd: dict[int, _Session] = {}
        self._outbox: deque[tuple[_Session, Request]] = deque()
        self._stopping = False
        self._signalled = False
        self._lock_file = lock_endpoint(endpoint)
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._configure()
        self.endpoint = self._bind(endpoint)
        self._monitor = self._router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="zmq-channel", daemon=True)
        self._thread.start()

    def _configure(self) -> None:
        for option, value in (
            (zmq.LINGER, _LINGER_MS),
            (zmq.ROUTER_MANDATORY, 1),  # otherwise replies to lost clients vanish uncounted
            (zmq.ROUTER_HANDOVER, 1),  # a client that reconnects keeps its place
            (zmq.MAXMSGSIZE, self._batcher.settings.max_message_mb << 20),
            # No ZMTP heartbeats: with one due on a connection that broke while its input was stopped, libzmq 4.3.5
            # aborts the process (!_io_error; libzmq #3596, #3937). Our own pings tell who is silent.
            (zmq.TCP_KEEPALIVE, 1),  # gives back connections whose other side vanished without a word
        ):
            self._router.setsockopt(option, value)

    def _bind(self, endpoint: str) -> str:
        try:
            self._router.bind(endpoint)
        except zmq.ZMQError as error:
            self._router.close(0)
            self._context.term()
            unlock_endpoint(endpoint, self._lock_file)
            if error.errno == zmq.EADDRINUSE:
                raise in_use(endpoint) from None
            raise SettingError.of("bind", endpoint, str(error), "choose another endpoint") from None
        return str(self._router.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")

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

    def _answered(self, session: _Session, request: Request) -> None:
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
        for source in (self._router, self._wake_out, self._monitor):
            poller.register(source, zmq.POLLIN)
        next_check_ns = 0
        try:
            while not self._stopping:
                ready = {source for source, _ in poller.poll(_TICK_MS)}
                if self._wake_out.fileno() in ready:
                    self._wake_out.recv(4096)
                self._send_replies()
                if self._monitor in ready:
                    self._drop_lost()
                if self._router in ready:
                    self._receive()
                if time.monotonic_ns() >= next_check_ns:
                    self._look_for_silent()
                    next_check_ns = time.monotonic_ns() + _TICK_MS * 1_000_000
            self._send_replies()
        finally:
            self._shut()

    def _shut(self) -> None:
        self._router.disable_monitor()
        self._monitor.close(0)
        self._router.close()
        self._context.term()
        self._wake_in.close()
        self._wake_out.close()
        unlock_endpoint(self.endpoint, self._lock_file)

    # Receiving

    def _receive(self) -> None:
        for _ in range(_BURST):
            if not wire.has_message(self._router):
                return
            self._handle(self._router.recv_multipart(copy=False))

    def _handle(self, frames: list[zmq.Frame]) -> None:
        routing = frames[0].bytes
        header: wire.Header | None = None
        try:
            if len(frames) < 2:
                raise MessageError("a message has a header frame")
            header = wire.unpack_header(frames[1].buffer)
            self._act(routing, header, frames)
        except MessageError as error:
            self._batcher.count_error(
                "bad_header" if header is None else f"bad_{wire.KIND_NAMES.get(header.kind, 'kind')}"
            )
            self._refuse(routing, header, wire.ERROR, str(error))
        except ServerGone:  # draining: the client asks again, perhaps the next server
            self._batcher.count_error("draining")
        except Exception as error:  # a fault of ours: this message is lost, its sender asks again, the others live on
            self._batcher.count_error(f"channel:{type(error).__name__}")

    def _act(self, routing: bytes, header: wire.Header, frames: list[zmq.Frame]) -> None:
        if header.kind == wire.HELLO:
            self._greet(routing, header, frames)
            return
        if header.kind == wire.ASK:
            answer = wire.pack_header(wire.SERVED, (header.client, header.epoch))
            self._send(routing, [answer, msgpack.packb(self._batcher.spec.to_dict())])
            return
        session = self._sessions.get(routing)
        if session is None or session.sender[1] != header.epoch:
            self._send(routing, [wire.pack_header(wire.UNKNOWN, (header.client, header.epoch))])
            return
        session.heard_ns = time.monotonic_ns()
        if session.lost:
            self._found_again(session, frames)
        if header.kind == wire.ROWS:
            self._take_rows(session, header, [frame.buffer for frame in frames[2:]])
        elif header.kind == wire.PING:
            self._send(routing, [wire.pack_header(wire.PONG, session.sender)])
        elif header.kind == wire.WINDOW:
            self._batcher.set_window(session.port, min(header.rows, session.hello.window))
        elif header.kind == wire.BYE:
            self._forget(session)
        else:
            raise MessageError(f"message kind {header.kind} is not for a server")

    def _take_rows(self, session: _Session, header: wire.Header, frames: list[memoryview]) -> None:
        if header.request in session.in_flight:
            self._batcher.count_resend()
            return
        if header.request in session.replies:
            self._batcher.count_resend()
            self._send(session.routing, session.replies[header.request])
            return
        if len(session.in_flight) >= session.hello.window:
            raise MessageError(f"{session.hello.window} requests are outstanding already, the window said at HELLO")
        spec = self._batcher.spec
        self._batcher.check_slot(header.slot)
        rows = wire.rows_of(header, frames, spec, session.hello.max_rows)
        request = Request(session.port, header.request, header.rows, wire.legal_of(header, frames, spec))
        session.in_flight.add(header.request)
        try:
            self._batcher.submit(request, rows, header.slot)
        except ServerGone:
            session.in_flight.discard(header.request)
            raise

    # Clients come and go

    def _greet(self, routing: bytes, header: wire.Header, frames: list[zmq.Frame]) -> None:
        if len(frames) != 3:
            raise MessageError("HELLO has one payload frame")
        hello = wire.unpack_hello(frames[2].buffer)
        misfit = wire.misfit(hello, self._batcher.spec, self._batcher.settings)
        if misfit:
            self._batcher.count_error("refused_hello")
            self._refuse(routing, header, wire.REFUSED, misfit)
            return
        session = self._sessions.get(routing)
        if session is None or session.sender[1] != header.epoch or session.hello != hello:
            session = self._admit(routing, header, hello)
        session.heard_ns = time.monotonic_ns()
        self._found_again(session, frames)
        ready = {
            "server_epoch": self._epoch,
            "model_version": self._version(),
            "max_window": self._batcher.settings.max_window,
            "max_request_rows": self._batcher.settings.max_request_rows,
        }
        self._send(routing, [wire.pack_header(wire.READY, session.sender), msgpack.packb(ready)])

    def _admit(self, routing: bytes, header: wire.Header, hello: wire.Hello) -> _Session:
        if routing in self._sessions:
            self._forget(self._sessions[routing])
        session = _Session(routing, header.client, header.epoch, hello)
        session.port = Port(header.client, hello.spec, lambda request: self._answered(session, request))
        self._batcher.join(session.port, hello.window)
        self._sessions[routing] = session
        return session

    def _found_again(self, session: _Session, frames: list[zmq.Frame]) -> None:
        """Learn which connection the client is on, so that its end tells who was lost."""
        self._drop_lost()  # ends of earlier connections on the same descriptor come before this message
        session.lost = False
        try:
            session.fd = int(frames[-1].get(zmq.SRCFD))
        except (zmq.ZMQError, ValueError):  # a transport without descriptors: pings must do
            return
        self._by_fd[session.fd] = session

    def _drop_lost(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            session = self._by_fd.pop(int(event["value"]), None)
            if session is not None:
                self._lose(session)

    def _lose(self, session: _Session) -> None:
        session.lost = True
        self._batcher.quiet(session.port)

    def _look_for_silent(self) -> None:
        settings, now_ns = self._batcher.settings, time.monotonic_ns()
        for session in list(self._sessions.values()):
            silent_ns = now_ns - session.heard_ns
            if silent_ns > settings.forget_after_s * 1_000_000_000:
                self._forget(session)
            elif silent_ns > _MISSED_PINGS * settings.ping_interval_ms * 1_000_000 and not session.lost:
                self._lose(session)

    def _forget(self, session: _Session) -> None:
        self._batcher.leave(session.port)
        self._sessions.pop(session.routing, None)
        if self._by_fd.get(session.fd) is session:
            del self._by_fd[session.fd]

    # Sending

    def _send_replies(self) -> None:
        self._signalled = False  # before the queue is emptied: what comes later wakes the thread again
        while self._outbox:
            session, request = self._outbox.popleft()
            frames = _reply_frames(session, request)
            session.keep(request.id, frames)
            self._send(session.routing, frames)

    def _refuse(self, routing: bytes, header: wire.Header | None, kind: int, reason: str) -> None:
        sender, request = ((header.client, header.epoch), header.request) if header else (("", 0), 0)
        self._send(routing, [wire.pack_header(kind, sender, request), reason.encode()])

    def _send(self, routing: bytes, frames: Frames) -> None:
        try:
            self._router.send(routing, wire.SEND_MORE)
            wire.send_frames(self._router, frames)
        except zmq.ZMQError as error:  # the client is gone or takes nothing; it may return and ask again
            self._batcher.count_error("unroutable" if error.errno == zmq.EHOSTUNREACH else "unsendable")
            if routing in self._sessions:
                self._lose(self._sessions[routing])


def _reply_frames(session: _Session, request: Request) -> Frames:
    reply = request.reply()
    logits = reply.logits
    if session.hello.logits == "float16":
        logits = np.clip(logits, -_HALF_MAX, _HALF_MAX).astype(np.float16)
    header = wire.pack_header(wire.REPLY, session.sender, request.id, rows=request.rows)
    return [header, wire.pack_reply(reply), logits.data, reply.values.data]
