"""The worker's end of the ZeroMQ channel: one DEALER socket, used by one thread, no thread of its own.

Evaluation is pure, so the client may ask again: a request without an answer is repeated after a time-out that
doubles. A server that does not know the client (it was restarted) gets HELLO and all outstanding requests anew, so
the search trees of the worker stay intact. When the connection breaks, HELLO waits at once for the next one.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import zmq

from grove.common.errors import ChannelError, HandshakeError, MessageError, ServerGone
from grove.inference_server.channels import protocol
from grove.inference_server.channels.connection_monitor import ConnectionMonitor, connect
from grove.inference_server.channels.keys import ClientKeys
from grove.inference_server.interface.client import Legal, Reply, Rows, check_rows
from grove.inference_server.interface.rows import RowSpec

_LINGER_MS = 200
_CONNECT_MS = 3000
"""Longest try to connect: the system's own tries come ever more seldom while a line is cut."""
_SECOND = 1_000_000_000
_KEPT_RELEASES = 16
"""Releases said again after a lost connection: more than the models that a server holds of a few slots."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a client waits before it asks again and before it gives up."""

    resend_after_s: float = 1.0
    """Seconds before a request is repeated the first time; doubles each time. 1: far above any batch's time."""
    give_up_after_s: float = 30.0
    """Seconds without any sign of the server before `ServerGone`. 30: longer than a restart of the server."""
    ping_interval_s: float = 1.0
    """Seconds between pings while waiting. 1: the server counts a client as dead after three missed ones."""


@dataclass(slots=True)
class _Outstanding:
    frames: list[bytes]
    total: int | None  # legal actions asked for; None = all logits
    resend_ns: int
    wait_ns: int


class ZmqClient:
    """A `Client` of a server in another process."""

    def __init__(  # noqa: PLR0913
        self,
        endpoint: str,
        row_spec: RowSpec,
        *,
        name: str = "",
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
        self._window = window
        self._max_rows = max_rows
        self._logits = logits_dtype
        self._patience = patience or Patience()
        self._sender = name or f"process-{os.getpid()}", secrets.randbits(62)
        self._hello = protocol.pack_hello(protocol.Hello(row_spec, window, max_rows, logits_dtype))
        self._next_id = 0
        self._outstanding: dict[int, _Outstanding] = {}
        self._done: deque[Reply] = deque()
        self._ready = False
        self._asked_ns = 0  # when the first message since the last sign of the server was sent; 0 = none
        self._ping_ns = 0
        self._closed = False
        self._promised = window
        self.server_epoch = ""
        self.model_version = ""
        """Of the server at the last handshake; each reply carries its own."""
        self._slots: dict[str, int] = {}
        self._released: deque[int] = deque(maxlen=_KEPT_RELEASES)
        self._context = zmq.Context()
        self._socket, self._monitor = self._open(endpoint, keys)
        self._poller = zmq.Poller()
        for source in (self._socket, self._monitor.events):
            self._poller.register(source, zmq.POLLIN)
        try:
            self._shake_hands()
        except BaseException:
            self.close()
            raise

    def _open(self, endpoint: str, keys: ClientKeys | None) -> tuple[zmq.Socket[bytes], ConnectionMonitor]:
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, _LINGER_MS)
        dealer.setsockopt(zmq.ROUTING_ID, b"c" + self._sender[1].to_bytes(8, "big"))  # kept over reconnections
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 200)  # a restarted server shall not wait for its clients
        dealer.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_MS)
        dealer.setsockopt(zmq.TCP_MAXRT, protocol.LINE_DEAD_MS)
        try:
            return dealer, connect(dealer, endpoint, keys)
        except HandshakeError:
            dealer.close(0)
            self._context.term()
            raise

    def _shake_hands(self) -> None:
        self._greet()
        while not self._ready:
            self._keep_alive()
            self._receive(0.1)

    # The client interface

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a server, as far as `collect` has noticed."""
        return self._monitor.up

    @property
    def slots(self) -> dict[str, int]:
        """See `Client.slots`; as they were at the last handshake."""
        return self._slots

    def submit(self, observations: Rows, slot: int = 0, legal: Legal | None = None) -> int:
        """See `Client.submit`."""
        check_rows(self._spec, self._max_rows, observations, legal)
        if len(self._outstanding) + len(self._done) >= self._window:
            raise MessageError(f"{self._window} requests are outstanding already, the window; collect one first")
        number, self._next_id = self._next_id, self._next_id + 1
        flags, payload = 0, [observations.tobytes()]
        if legal is not None:
            flags, payload = protocol.RAGGED, [*payload, *protocol.pack_legal(legal)]
        header = protocol.pack_header(protocol.ROWS, self._sender, number, slot, len(observations), flags)
        wait_ns = int(self._patience.resend_after_s * _SECOND)
        total = None if legal is None else len(legal[1])
        frames = [header, *payload]
        self._outstanding[number] = _Outstanding(frames, total, time.monotonic_ns() + wait_ns, wait_ns)
        if self._ready:
            self._send(frames)
        return number

    def collect(self, timeout_s: float) -> Reply | None:
        """See `Client.collect`.

        Raises:
            MessageError: the server refused one of the requests; the others are untouched.
            HandshakeError: the server was restarted and does not fit any more.
        """
        deadline_ns = time.monotonic_ns() + int(timeout_s * _SECOND)
        while not self._done and self._outstanding:
            left_s = (deadline_ns - time.monotonic_ns()) / _SECOND
            self._receive(max(min(left_s, self._patience.ping_interval_s), 0))
            if not self._done:
                self._keep_alive()
                if left_s <= 0:
                    return None
        return self._done.popleft() if self._done else None

    def set_window(self, requests: int) -> None:
        """See `Client.set_window`; never above the window said at HELLO."""
        self._promised = min(requests, self._window)
        self._tell_window()

    def rejoin(self, epoch: str) -> None:
        """Somebody knows that the server was started again, as `epoch`: shake hands with it at once."""
        if epoch != self.server_epoch:
            self._greet()

    def release(self, slot: int) -> None:
        """See `Client.release`."""
        self._released.append(slot)
        self._send([protocol.pack_header(protocol.RELEASE, self._sender, slot=slot)])

    def close(self) -> None:
        """See `Client.close`."""
        if self._closed:
            return
        self._closed = True
        if self._ready:
            self._send([protocol.pack_header(protocol.BYE, self._sender)])
        self._monitor.close()
        self._socket.close()
        self._context.term()

    # Sending

    def _send(self, frames: list[bytes]) -> None:
        try:
            protocol.send_frames(self._socket, frames)
        except zmq.Again:  # nothing gets through now: it is repeated later
            return
        if not self._asked_ns:
            self._asked_ns = time.monotonic_ns()

    def _greet(self) -> None:
        self._ready = False
        self._send([protocol.pack_header(protocol.HELLO, self._sender), self._hello])

    def _tell_window(self) -> None:
        self._send([protocol.pack_header(protocol.WINDOW, self._sender, rows=self._promised)])

    def _keep_alive(self) -> None:
        """Ping, repeat what is overdue, and give up on a server that shows no sign of life."""
        if self._monitor.broke():
            self._greet()  # waits in the socket for the next connection
        now_ns = time.monotonic_ns()
        if self._asked_ns and now_ns - self._asked_ns > self._patience.give_up_after_s * _SECOND:
            raise ServerGone(
                f"no sign of the inference server for {self._patience.give_up_after_s:g} s; "
                f"is it running?{self._monitor.hint}"
            )
        if now_ns - self._ping_ns > self._patience.ping_interval_s * _SECOND:
            if self._ping_ns:
                if self._ready:
                    self._send([protocol.pack_header(protocol.PING, self._sender)])
                elif self._monitor.up:
                    self._greet()
            self._ping_ns = now_ns
        for request in self._outstanding.values():
            if now_ns >= request.resend_ns:
                request.wait_ns *= 2
                request.resend_ns = now_ns + request.wait_ns
                if self._ready:
                    self._send(request.frames)

    # Receiving

    def _receive(self, timeout_s: float) -> None:
        """Take in every message that is there, waiting up to `timeout_s` for the first."""
        if timeout_s and not protocol.has_message(self._socket):
            self._poller.poll(int(timeout_s * 1000) + 1)
        while protocol.has_message(self._socket):
            frames = self._socket.recv_multipart(copy=False)
            self._asked_ns = 0
            try:
                self._act([frame.buffer for frame in frames])
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ChannelError(
                    f"the server's message is not understood ({error!r}); install one Grove version"
                ) from None

    def _act(self, frames: list[memoryview]) -> None:
        header = self._header_of(frames)
        if header.epoch not in (self._sender[1], 0):
            return
        if header.kind == protocol.REPLY:
            self._take_reply(header, frames[1:])
        elif header.kind == protocol.READY:
            self._welcome(frames[1])
        elif header.kind == protocol.UNKNOWN:
            if self._ready:
                self._greet()
        elif header.kind == protocol.REFUSED:
            raise HandshakeError(_text(frames))
        elif header.kind == protocol.ERROR:
            self._take_error(header, _text(frames))

    def _header_of(self, frames: list[memoryview]) -> protocol.Header:
        try:
            return protocol.unpack_header(frames[0])
        except MessageError as error:
            raise ChannelError(f"the server's message is not understood: {error}") from None

    def _welcome(self, frame: memoryview) -> None:
        fields = protocol.unpack(frame, "READY")
        if fields["server_epoch"] != self.server_epoch:
            self._released.clear()  # they were numbers of a former life
        elif self._ready:  # the answer to a second HELLO
            return
        self.server_epoch, self.model_version = fields["server_epoch"], fields["model_version"]
        self._slots = fields["slots"]
        self._ready = True
        self._monitor.hint = ""
        for slot in self._released:  # in case it was lost with a connection
            self._send([protocol.pack_header(protocol.RELEASE, self._sender, slot=slot)])
        if self._promised != self._window:
            self._tell_window()
        for request in self._outstanding.values():
            self._send(request.frames)

    def _take_reply(self, header: protocol.Header, frames: list[memoryview]) -> None:
        request = self._outstanding.get(header.request)
        if request is not None:  # otherwise a second answer to a repeated request
            reply = protocol.unpack_reply(header, frames, self._spec, self._logits, request.total)
            del self._outstanding[header.request]
            self._done.append(reply)

    def _take_error(self, header: protocol.Header, reason: str) -> None:
        if not self._ready:
            raise HandshakeError(f"the server does not understand HELLO: {reason}")
        if self._outstanding.pop(header.request, None) is not None:
            raise MessageError(f"the server refused request {header.request}: {reason}")


class ServerFacts(NamedTuple):
    """What a server says of itself to whoever asks."""

    rows: RowSpec
    """Which rows it serves."""
    swap: str
    """When its new models take over: `at-once` or `between-games`."""
    models_folder: str
    """Folder that it watches for models, as it names it; empty without one."""


def ask_server(endpoint: str, keys: ClientKeys | None = None, timeout_s: float = 30.0) -> ServerFacts:
    """Return what the server at `endpoint` says of itself, waiting for it up to `timeout_s`.

    Raises:
        ServerGone: no server answers.
        HandshakeError: `endpoint` is malformed, the server does not let us in, or it is not one of this version.
    """
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    try:
        dealer.setsockopt(zmq.LINGER, 0)
        with closing(connect(dealer, endpoint, keys)) as line:
            dealer.send(protocol.pack_header(protocol.ASK, ("ask", secrets.randbits(62))))
            deadline = time.monotonic() + timeout_s
            while not dealer.poll(100):
                line.broke()
                if time.monotonic() > deadline:
                    raise ServerGone(
                        f"no server answers at {endpoint} within {timeout_s:.0f} s; start one with `grove serve`."
                        f"{line.hint}"
                    )
            return _served(dealer.recv_multipart())
    finally:
        context.destroy(0)


def _served(frames: list[bytes]) -> ServerFacts:
    try:
        if len(frames) != 2 or protocol.unpack_header(frames[0]).kind != protocol.SERVED:
            raise MessageError("not an answer to ASK")
        fields = protocol.unpack(frames[1], "SERVED")
        return ServerFacts(RowSpec.from_dict(fields["rows"]), str(fields["swap"]), str(fields["models_folder"]))
    except (MessageError, ValueError, TypeError, KeyError) as error:
        raise HandshakeError(f"the server's answer is not understood ({error}); install one Grove version") from None


def _text(frames: list[memoryview]) -> str:
    return bytes(frames[1]).decode(errors="replace") if len(frames) > 1 else "no reason given"
