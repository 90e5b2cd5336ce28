"""The server's end of the ZeroMQ channel: one ROUTER socket, the thread that owns it, and the clients it knows.

The thread receives in bounded bursts, puts rows into the pending batch straight from the received frame, and sends
answers that the lanes left in a queue. A fault in a message is told to its sender, counted, and touches nobody else. A
client that was not heard of for `forget_after_s` is forgotten; one that returns is asked for Hello and sends its
requests again. An answer that cannot be sent is dropped: evaluation is pure, so the client simply asks again.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import zmq

from grove.common.errors import MessageError, ServerGone
from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.request import ClientHandle, Request
from grove.inference_server.channels import protocol
from grove.inference_server.channels.keys import ServerKeys
from grove.inference_server.channels.listener import Listener
from grove.inference_server.interface.client import Answer

_BURST = 64
"""Messages received before answers get their turn."""
_TICK_MS = 250
"""Longest sleep of the thread: how often silent clients are looked for."""
_HALF_MAX = 65504.0
"""Largest finite float16."""


class _Session:
    """One client: its place at the batcher, and which of its requests are under way."""

    def __init__(self, routing: bytes, hello: protocol.Hello) -> None:
        self.routing = routing
        self.hello = hello
        self.client: ClientHandle  # given when the client is admitted
        # Requests not answered yet: at most the client's window, and as many that came again while their answers were
        # on the way.
        self.in_flight: set[int] = set()
        self.heard_ns = time.monotonic_ns()


class ZmqChannel:
    """Listens on one endpoint and feeds one batcher."""

    def __init__(
        self, batcher: Batcher, endpoint: str, about: Callable[[], dict[str, Any]], keys: ServerKeys | None
    ) -> None:
        """Bind `endpoint` and start the thread; with `keys` only clients of their list are let in.

        `about` gives what Served says of the server.

        Raises:
            SettingError: the endpoint is in use, malformed, or, without keys, not on this machine.
        """
        self._batcher = batcher
        self._about = about
        self._sessions: dict[bytes, _Session] = {}
        self._outbox: deque[tuple[_Session, Answer]] = deque()
        self._stopping = False
        self._signalled = False
        self._listener = Listener(endpoint, keys, batcher.spec, batcher.settings, batcher.count_error)
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
        """Wait until the queue of answers is empty; return whether it is."""
        deadline = time.monotonic() + timeout_s
        while self._outbox and time.monotonic() < deadline:
            self._wake()
            time.sleep(0.001)
        return not self._outbox

    def _answered(self, session: _Session, answer: Answer) -> None:
        self._outbox.append((session, answer))
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
        for source in (self._router, self._wake_out):
            poller.register(source, zmq.POLLIN)
        next_tick_ns = 0
        try:
            while not self._stopping:
                ready = {source for source, _ in poller.poll(_TICK_MS)}
                if self._wake_out.fileno() in ready:
                    self._wake_out.recv(4096)
                self._send_answers()
                if self._router in ready:
                    self._receive()
                if time.monotonic_ns() >= next_tick_ns:
                    self._forget_silent()
                    next_tick_ns = time.monotonic_ns() + _TICK_MS * 1_000_000
            self._send_answers()
        except Exception as error:  # nobody would answer any more
            self._batcher.break_down(f"the channel at {self.endpoint} has ended: {type(error).__name__}: {error}")
        finally:
            self._listener.close()
            self._wake_in.close()
            self._wake_out.close()

    def _receive(self) -> None:
        for _ in range(_BURST):
            if not protocol.readable(self._router):
                return
            routing, *frames = self._next_message()
            try:
                self._act(routing.bytes, protocol.decode([frame.buffer for frame in frames], self._batcher.spec))
            except MessageError as error:
                self._batcher.count_error("bad_message")
                self._send(routing.bytes, protocol.Failed(0, str(error)))
            except ServerGone:  # draining: the client asks again, perhaps the next server
                self._batcher.count_error("draining")
            except Exception as error:  # a fault of ours: this message is lost, its sender asks again
                self._batcher.count_error(f"channel:{type(error).__name__}")

    def _next_message(self) -> list[zmq.Frame]:
        """Return the next message, without the frames that no message may have but for one, by which it is seen."""
        frame = self._router.recv(copy=False)
        frames = [frame]
        while frame.more:
            frame = self._router.recv(copy=False)
            if len(frames) <= 1 + protocol.MAX_FRAMES:
                frames.append(frame)
        return frames

    def _act(self, routing: bytes, message: protocol.Message) -> None:
        session = self._sessions.get(routing)
        if session is not None:
            session.heard_ns = time.monotonic_ns()
        match message, session:
            case protocol.Hello(), _:
                self._greet(routing, message)
            case protocol.Ask(), _:
                self._send(routing, protocol.Served(self._about()))
            case _, None:
                self._send(routing, protocol.Unknown())
            case protocol.Evaluate(), _Session():
                self._take_rows(session, message)
            case protocol.Window(requests), _Session():
                self._batcher.set_window(session.client, min(requests, session.hello.window))
            case protocol.Ping(), _:
                self._send(routing, protocol.Pong())
            case protocol.Bye(), _Session():
                self._forget(session)
            case _:
                raise MessageError(f"{type(message).__name__} is not for a server")

    def _take_rows(self, session: _Session, message: protocol.Evaluate) -> None:
        """Put rows into the pending batch; a request that is under way already is only counted."""
        request, rows = message.request, len(message.observations)
        if request in session.in_flight:
            self._batcher.count_resend()
            return
        try:
            if len(session.in_flight) >= 2 * session.hello.window:
                raise MessageError(f"twice the window of Hello, {session.hello.window} requests, is outstanding")
            if rows > session.hello.max_rows:
                raise MessageError(f"a request has {rows} rows, but Hello said at most {session.hello.max_rows}")
            made = Request(session.client, request, rows, message.legal)
            self._batcher.submit(made, message.observations, message.model)
            session.in_flight.add(request)
        except MessageError as error:
            self._batcher.count_error("bad_message")
            self._send(session.routing, protocol.Failed(request, str(error)))

    # Clients come and go

    def _greet(self, routing: bytes, hello: protocol.Hello) -> None:
        session = self._sessions.get(routing)
        if session is None or session.hello != hello:
            if misfit := self._misfit(hello):
                self._batcher.count_error("refused_hello")
                self._send(routing, protocol.Refused(misfit))
                return
            if session is not None:
                self._forget(session)
            session = _Session(routing, hello)
            session.client = ClientHandle(partial(self._answered, session))
            self._batcher.join(session.client, hello.window)
            self._sessions[routing] = session
        self._send(routing, protocol.Ready())

    def _misfit(self, hello: protocol.Hello) -> str:
        """Return why a client cannot be served, with the remedy; empty when it can."""
        spec, settings = self._batcher.spec, self._batcher.settings
        if hello.spec != spec:
            mine, theirs = spec.to_dict(), hello.spec.to_dict()
            differing = [f"{key} {theirs[key]!r} (server: {mine[key]!r})" for key in mine if theirs[key] != mine[key]]
            return f"the client has {', '.join(differing)}; start both for the same game"
        if hello.window > settings.max_window:
            return f"window {hello.window} exceeds the server's max_window {settings.max_window}; lower it"
        most = min(settings.max_request_rows, (settings.max_message_mb << 20) // spec.row_bytes)
        if hello.max_rows > most:
            limits = f"max_request_rows {settings.max_request_rows} and max_message_mb {settings.max_message_mb}"
            return f"requests of {hello.max_rows} rows exceed what the server's {limits} allow; lower them"
        if hello.logits not in protocol.LOGIT_DTYPES:
            return f"logits dtype {hello.logits!r} is unknown; choose one of {', '.join(protocol.LOGIT_DTYPES)}"
        if len(self._sessions) >= settings.max_clients:
            return f"{len(self._sessions)} clients are here already; raise the server's max_clients"
        return ""

    def _forget(self, session: _Session) -> None:
        """The client is gone; should it return, it is asked for Hello."""
        self._batcher.leave(session.client)
        self._sessions.pop(session.routing, None)

    def _forget_silent(self) -> None:
        horizon_ns = time.monotonic_ns() - self._batcher.settings.forget_after_s * 1_000_000_000
        for session in [session for session in self._sessions.values() if session.heard_ns < horizon_ns]:
            self._forget(session)

    # Sending

    def _send_answers(self) -> None:
        self._signalled = False  # before the queue is emptied: what comes later wakes the thread again
        while self._outbox:
            session, answer = self._outbox.popleft()
            session.in_flight.discard(answer.ticket)
            if session.hello.logits == "float16":
                halves = np.clip(answer.logits, -_HALF_MAX, _HALF_MAX).astype(np.float16)
                answer = answer._replace(logits=halves)  # type: ignore[arg-type]
            self._send(session.routing, protocol.Answered(answer))

    def _send(self, routing: bytes, message: protocol.Message) -> None:
        """Send without waiting; what the client has no room for, or is gone for, is dropped."""
        try:
            protocol.send(self._router, [routing, *protocol.encode(message)])
        except zmq.ZMQError as error:
            gone = error.errno == zmq.EHOSTUNREACH
            self._batcher.count_error("unroutable" if gone else "unsendable")
            session = self._sessions.get(routing)
            if gone and session is not None:
                self._forget(session)
