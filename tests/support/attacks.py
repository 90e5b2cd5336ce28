"""Messages and connections that mean harm."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgpack
import numpy as np
import zmq

from grove.inference_server import RowSpec, ServerSettings
from grove.inference_server.channels import protocol
from grove.inference_server.channels.listener import Bounds

Message = list[bytes]
Random = np.random.Generator

SENDER = ("hostile", 1)
SILENT = 200
"""Connections that say nothing, opened by the kind `silent`."""
_SLOW = 400
"""Requests of the client that reads no answer."""
_WINDOW, _ROWS = 4, 8
_CONNECT_S = 5.0
_LINGER_MS = 200
"""Longest time that what was sent may take after the end of a connection; nobody waits for it."""
_UNKNOWN = [kind for kind in range(100) if kind not in protocol.KIND_NAMES]
"""Kinds that no client may send, those of the server's answers among them."""


def hello(spec: RowSpec, epoch: int = SENDER[1]) -> Message:
    """Return a HELLO that is accepted."""
    said = protocol.Hello(spec, _WINDOW, _ROWS, "float32")
    return [protocol.pack_header(protocol.HELLO, (SENDER[0], epoch)), protocol.pack_hello(said)]


def rows(spec: RowSpec, request: int, count: int = 2) -> Message:
    """Return a request that is accepted."""
    return [protocol.pack_header(protocol.ROWS, SENDER, request, 0, count), bytes(count * spec.row_bytes)]


def _ragged(spec: RowSpec, random: Random) -> Message:
    legal = np.array([0, 1, 2], np.int64), random.integers(0, spec.num_actions, 2, np.int32)
    header = protocol.pack_header(protocol.ROWS, SENDER, int(random.integers(1 << 40)), 0, 2, protocol.RAGGED)
    return [header, bytes(2 * spec.row_bytes), *protocol.pack_legal(legal)]


def _any(spec: RowSpec, random: Random) -> Message:
    """Return one of the messages of an honest client."""
    number = int(random.integers(1 << 40))
    window = [protocol.pack_header(protocol.WINDOW, SENDER, rows=3)]
    return (hello(spec), rows(spec, number), _ragged(spec, random), window)[random.integers(4)]


def _random_bytes(spec: RowSpec, random: Random) -> Message:
    return [random.bytes(int(random.integers(0, 300))) for _ in range(random.integers(1, 4))]


def _changed_bytes(spec: RowSpec, random: Random) -> Message:
    frames = [bytearray(frame) for frame in _any(spec, random)]
    for frame in frames:
        if frame:
            frame[random.integers(len(frame))] = random.integers(256)
    return [bytes(frame) for frame in frames]


def _truncated(spec: RowSpec, random: Random) -> Message:
    frames = _any(spec, random)
    last = frames[-1]
    return frames[: random.integers(1, len(frames) + 1)] if random.integers(2) else [*frames[:-1], last[:-1]]


def _wrong_counts(spec: RowSpec, random: Random) -> Message:
    numbers = [int(number) for number in random.choice([0, 1, 3, 1 << 20, 1 << 40, (1 << 63) - 1], 3)]
    return [protocol.pack_header(protocol.ROWS, SENDER, numbers[0], numbers[1], numbers[2]), bytes(2 * spec.row_bytes)]


def _wrong_version(spec: RowSpec, random: Random) -> Message:
    return [msgpack.packb((int(random.integers(2, 9)), protocol.HELLO, *SENDER, 0, 0, 0, 0)), b""]


def _unknown_kind(spec: RowSpec, random: Random) -> Message:
    return [protocol.pack_header(int(random.choice(_UNKNOWN)), SENDER)]


def _replayed(spec: RowSpec, random: Random) -> Message:
    return rows(spec, int(random.integers(3)))


def _many_frames(spec: RowSpec, random: Random) -> Message:
    return [protocol.pack_header(protocol.ROWS, SENDER, 1), *[b"x"] * int(random.integers(5, 60))]


def _new_lives(spec: RowSpec, random: Random) -> Message:
    return hello(spec, int(random.integers(1 << 40)))


def _beyond_window(spec: RowSpec, random: Random) -> Message:
    return rows(spec, int(random.integers(1 << 40)), _ROWS)


def _oversized(spec: RowSpec, random: Random) -> Message:
    """Return a frame beyond what any request of `spec` may have; the connection ends."""
    return [
        protocol.pack_header(protocol.ROWS, SENDER, 1, 0, 1),
        bytes(Bounds.of(spec, ServerSettings()).frame_bytes + 1),
    ]


MESSAGES: dict[str, Callable[[RowSpec, Random], Message]] = {
    "random-bytes": _random_bytes,
    "changed-bytes": _changed_bytes,
    "truncated": _truncated,
    "wrong-counts": _wrong_counts,
    "wrong-version": _wrong_version,
    "unknown-kind": _unknown_kind,
    "replayed": _replayed,
    "many-frames": _many_frames,
    "new-lives": _new_lives,
    "beyond-window": _beyond_window,
}
"""Wrong or unasked-for messages by kind; an attacker knows `oversized`, `slow`, `silent` and `half-open` too."""
KINDS = (*MESSAGES, "oversized", "slow", "silent", "half-open")


class Attacker:
    """Connections to one server, all of them ended when the context is left."""

    def __init__(self, endpoint: str, spec: RowSpec, seed: int = 0) -> None:
        self._endpoint, self._spec = endpoint, spec
        self._random = np.random.default_rng(seed)
        self._stack = ExitStack()
        self._context = self._stack.enter_context(zmq.Context())
        self.sent: dict[str, int] = dict.fromkeys(KINDS, 0)
        """Messages (or connections) by kind."""

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def burst(self, kind: str, count: int) -> None:
        """Send `count` messages of a kind over one new connection, after a HELLO, reading what is answered.

        It waits until all of it was read, or for a second; the end of the connection may throw the rest away.
        `slow` reads nothing; `silent` and `half-open` open that many connections instead and keep them.
        """
        if kind in ("silent", "half-open"):
            for _ in range(count):
                self._stack.enter_context(self._half_open(b"\xff" if kind == "half-open" else b""))
        elif kind == "slow":
            dealer = self._stack.enter_context(self._context.socket(zmq.DEALER))
            self._send(dealer, (rows(self._spec, number, _ROWS) for number in range(count)), False)
        else:
            make = MESSAGES.get(kind, _oversized)
            with self._context.socket(zmq.DEALER) as dealer:
                self._send(dealer, (make(self._spec, self._random) for _ in range(count)), True)
        self.sent[kind] += count

    def _send(self, dealer: zmq.Socket[bytes], messages: Iterator[Message], reads: bool) -> None:
        dealer.setsockopt(zmq.LINGER, _LINGER_MS)
        dealer.setsockopt(zmq.SNDTIMEO, 1000)  # a server that ended the connection takes nothing for a while
        dealer.connect(self._endpoint)
        try:
            dealer.send_multipart(hello(self._spec))
            for message in messages:
                dealer.send_multipart(message)
                while reads and protocol.has_message(dealer):
                    dealer.recv_multipart()
            if reads:
                dealer.send_multipart([protocol.pack_header(protocol.ASK, SENDER)])
                _await_kind(dealer, protocol.SERVED)
        except zmq.Again:
            return

    @contextmanager
    def _half_open(self, first: bytes) -> Iterator[None]:
        scheme, _, address = self._endpoint.partition("://")
        family = socket.AF_UNIX if scheme == "ipc" else socket.AF_INET
        host, _, port = address.rpartition(":")
        with socket.socket(family) as plain:
            plain.settimeout(_CONNECT_S)
            _connect(plain, address if scheme == "ipc" else (host, int(port)))
            plain.sendall(first)
            yield


def _connect(plain: socket.socket, address: str | tuple[str, int]) -> None:
    """Connect, also when the queue of a local listener is full at first: that refuses at once instead of waiting."""
    deadline = time.monotonic() + _CONNECT_S
    while True:
        try:
            plain.connect(address)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _await_kind(dealer: zmq.Socket[bytes], kind: int) -> None:
    """Read until an answer of that kind, or for a second."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline and dealer.poll(100):
        if protocol.unpack_header(dealer.recv_multipart()[0]).kind == kind:
            return
