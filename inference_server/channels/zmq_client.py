"""The worker's end of the ZeroMQ channel: one DEALER socket, used by one thread, no thread of its own.

Evaluation is pure, so the client may ask again: a request without an answer is repeated after a time-out. A server
that does not know the client (it was restarted) gets Hello and all outstanding requests anew, so the search trees of
the worker stay intact.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import zmq

from grove.common.errors import ChannelError, HandshakeError, MessageError, ServerGone
from grove.inference_server.channels import protocol
from grove.inference_server.channels.keys import ClientKeys
from grove.inference_server.interface.client import DEFAULT, Answer, Legal, Rows, check_rows
from grove.inference_server.interface.rows import RowSpec

_LINGER_MS = 200
_CONNECT_MS = 3000
"""Longest try to connect: the system's own tries come ever more seldom while a line is cut."""
_SECOND = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a client waits before it asks again and before it gives up."""

    resend_after_s: float = 1.0
    """Seconds before a request is repeated. 1: far above any batch's time."""
    give_up_after_s: float = 30.0
    """Seconds without any sign of the server before `ServerGone`. 30: longer than a restart of the server."""
    ping_interval_s: float = 0.5
    """Seconds between pings while waiting: a server that was restarted is noticed so soon."""


@dataclass(slots=True)
class _Outstanding:
    frames: list[protocol.Buffer]
    sent_ns: int


class ZmqClient:
    """A `Client` of a server in another process."""

    def __init__(  # noqa: PLR0913
        self,
        endpoint: str,
        row_spec: RowSpec,
        *,
        window: int = 2,
        max_rows: int = 1024,
        logits_dtype: str = "float32",
        patience: Patience | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        """Connect and shake hands; `keys` are needed for a server that lets in only clients of its list.

        Raises:
            HandshakeError: the server refuses, with the remedy.
            ServerGone: no server answers at `endpoint`.
        """
        self._spec = row_spec
        self._hello = protocol.Hello(row_spec, window, max_rows, logits_dtype)
        self._patience = patience or Patience()
        self._tickets = 0
        self._outstanding: dict[int, _Outstanding] = {}
        self._done: deque[Answer] = deque()
        self._ready = False
        self._asked_ns = 0  # when the first message since the last sign of the server was sent; 0 = none
        self._ping_ns = 0
        self._closed = False
        self._promised = window
        self._monitor = ConnectionMonitor(endpoint, 2 * window + 16, keys)
        self._socket = self._monitor.socket
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        try:
            self._greet()
            while not self._ready:
                self._receive(0.1)
                self._monitor.check()
                self._keep_alive()
        except BaseException:
            self.close()
            raise

    # The client interface

    def submit(self, observations: Rows, legal: Legal | None = None, model: str = DEFAULT) -> int:
        """See `Client.submit`."""
        check_rows(self._spec, self._hello.max_rows, observations, legal)
        window = self._hello.window
        if len(self._outstanding) + len(self._done) >= window:
            raise MessageError(f"{window} requests are outstanding already, the window; collect one first")
        self._tickets += 1
        frames = protocol.encode(protocol.Evaluate(self._tickets, model, observations, legal))
        self._outstanding[self._tickets] = _Outstanding(frames, time.monotonic_ns())
        if self._ready:
            self._send(frames)
        return self._tickets

    def collect(self, timeout_s: float) -> Answer | None:
        """See `Client.collect`.

        Raises:
            MessageError: the server refused one of the requests; the others are untouched.
            HandshakeError: the server was restarted and does not fit any more.
        """
        deadline_ns = time.monotonic_ns() + int(timeout_s * _SECOND)
        while not self._done and self._outstanding:
            left_s = (deadline_ns - time.monotonic_ns()) / _SECOND
            self._receive(max(min(left_s, self._patience.ping_interval_s, self._patience.resend_after_s), 0))
            if not self._done:
                self._keep_alive()
                if left_s <= 0:
                    return None
        return self._done.popleft() if self._done else None

    def set_window(self, requests: int) -> None:
        """See `Client.set_window`; never above the window said at Hello."""
        self._promised = min(requests, self._hello.window)
        self._send(protocol.encode(protocol.Window(self._promised)))

    def close(self) -> None:
        """See `Client.close`."""
        if self._closed:
            return
        self._closed = True
        if self._ready:
            self._send(protocol.encode(protocol.Bye()))
        self._monitor.close()

    # Sending

    def _send(self, frames: list[protocol.Buffer]) -> None:
        try:
            protocol.send(self._socket, frames)
        except zmq.Again:  # nothing gets through now: it is repeated later
            return
        if not self._asked_ns:
            self._asked_ns = time.monotonic_ns()

    def _greet(self) -> None:
        self._ready = False
        self._ping_ns = time.monotonic_ns()
        self._send(protocol.encode(self._hello))

    def _keep_alive(self) -> None:
        """Ping, repeat what is overdue, and give up on a server that shows no sign of life."""
        now_ns, patience = time.monotonic_ns(), self._patience
        if self._asked_ns and now_ns - self._asked_ns > patience.give_up_after_s * _SECOND:
            raise ServerGone(
                f"no sign of the inference server for {patience.give_up_after_s:g} s; is it running, and do its keys "
                "and ours (--keys) belong together?"
            )
        if now_ns - self._ping_ns > patience.ping_interval_s * _SECOND:
            self._ping_ns = now_ns
            self._send(protocol.encode(protocol.Ping() if self._ready else self._hello))
        if self._ready:
            for request in self._outstanding.values():
                if now_ns - request.sent_ns > patience.resend_after_s * _SECOND:
                    request.sent_ns = now_ns
                    self._send(request.frames)

    # Receiving

    def _receive(self, timeout_s: float) -> None:
        """Take in every message that is there, waiting up to `timeout_s` for the first."""
        if timeout_s and not protocol.readable(self._socket):
            self._poller.poll(int(timeout_s * 1000) + 1)
        while protocol.readable(self._socket):
            frames = self._socket.recv_multipart(copy=False)
            self._asked_ns = 0
            self._act([frame.buffer for frame in frames])

    def _act(self, frames: list[memoryview]) -> None:
        try:
            message = protocol.decode(frames, self._spec)
        except MessageError as error:
            raise ChannelError(f"the server's message is not understood: {error}") from None
        match message:
            case protocol.Answered(answer):  # one that nobody waits for answers a repeated request once more
                if self._outstanding.pop(answer.ticket, None) is not None:
                    self._done.append(answer)
            case protocol.Ready():
                self._welcome()
            case protocol.Unknown():
                if self._ready:
                    self._greet()
            case protocol.Refused(reason):
                raise HandshakeError(reason)
            case protocol.Failed(request, reason):
                if not self._ready:
                    raise HandshakeError(f"the server does not understand Hello: {reason}")
                if self._outstanding.pop(request, None) is not None:
                    raise MessageError(f"the server refused request {request}: {reason}")

    def _welcome(self) -> None:
        if self._ready:  # the answer to a second Hello
            return
        self._ready = True
        if self._promised != self._hello.window:
            self._send(protocol.encode(protocol.Window(self._promised)))
        now_ns = time.monotonic_ns()
        for request in self._outstanding.values():
            request.sent_ns = now_ns
            self._send(request.frames)


class ConnectionMonitor:
    """A DEALER socket that connects to a server, again and again; closed as a whole."""

    def __init__(self, endpoint: str, unsent: int, keys: ClientKeys | None) -> None:
        """Connect to `endpoint`; at most `unsent` messages wait while nothing gets through.

        Raises:
            HandshakeError: `endpoint` is malformed.
        """
        self._context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._refusals: zmq.Socket[bytes] | None = None
        for option, value in (
            (zmq.LINGER, _LINGER_MS),
            (zmq.SNDHWM, unsent),
            (zmq.RECONNECT_IVL_MAX, 200),  # a restarted server shall not wait for its clients
            (zmq.CONNECT_TIMEOUT, _CONNECT_MS),
            (zmq.TCP_MAXRT, protocol.LINE_DEAD_MS),
        ):
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.ROUTING_ID, b"c" + secrets.token_bytes(8))  # kept over reconnections
        if keys is not None:
            keys.lock(self.socket)
            self._refusals = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise HandshakeError(
                f"cannot connect to {endpoint!r} ({error}); use what the server said it listens on"
            ) from None

    def check(self) -> None:
        """Raise HandshakeError when the server does not know our key: ZeroMQ would not try again."""
        if self._refusals is not None and self._refusals.poll(0):
            raise HandshakeError("the server does not let this key in; add it with `grove keys` where it runs")

    def close(self) -> None:
        """Send what still gets through, and end."""
        if self._refusals is not None:
            self.socket.disable_monitor()
            self._refusals.close(0)
        self.socket.close()
        self._context.term()


class ServerFacts(NamedTuple):
    """What a server says of itself to whoever asks."""

    rows: RowSpec
    """Which rows it serves."""
    models_folder: str
    """Folder that it watches for models, as it names it; empty without one."""


_NO_ROWS = RowSpec(
    game="", observation_shape=(1,), observation_dtype="uint8", num_actions=1, num_players=1, zero_sum=True
)


def ask_server(endpoint: str, keys: ClientKeys | None = None, timeout_s: float = 30.0) -> ServerFacts:
    """Return what the server at `endpoint` says of itself, waiting for it up to `timeout_s`.

    Raises:
        ServerGone: no server answers.
        HandshakeError: `endpoint` is malformed, the server does not let us in, or it is not one of this version.
    """
    with closing(ConnectionMonitor(endpoint, 1, keys)) as line:
        line.socket.setsockopt(zmq.LINGER, 0)
        protocol.send(line.socket, protocol.encode(protocol.Ask()))
        deadline = time.monotonic() + timeout_s
        while not line.socket.poll(100):
            line.check()
            if time.monotonic() > deadline:
                raise ServerGone(
                    f"no server answers at {endpoint} within {timeout_s:.0f} s; start one with `grove serve`. Or "
                    "do its keys and ours (--keys) not belong together?"
                )
        frames = line.socket.recv_multipart()
    try:
        message = protocol.decode(frames, _NO_ROWS)
        if not isinstance(message, protocol.Served):
            raise MessageError(f"{type(message).__name__} instead of Served")
        return ServerFacts(RowSpec.from_dict(message.about["rows"]), str(message.about["models_folder"]))
    except (MessageError, ValueError, TypeError, KeyError) as error:
        raise HandshakeError(f"the server's answer is not understood ({error}); install one Grove version") from None
