"""The protocol between ZeroMQ clients and the server: frames, headers, and their checks.

Every message is [routing id,] header, payload frames. The header is a msgpack array

    [protocol, kind, client, client epoch, request id, slot, rows, flags]

    kind      payload frames
    HELLO     msgpack map: row spec, window, maximum rows, logits dtype
    READY     msgpack map: server epoch, model version, slots, limits
    REFUSED   text: why HELLO does not fit, with a remedy
    ROWS      raw rows, and with the flag RAGGED the legal offsets (int64) and actions (int32)
    REPLY     msgpack array [version, batch rows, queue us, compute us, failed rows, error], logits, values (float32)
    ERROR     text: why this one message was refused
    PING      none; answered by PONG
    WINDOW    none; `rows` is the new window
    BYE       none
    UNKNOWN   none: the server does not know this client (it was restarted); send HELLO
    ASK       none: which rows are served? needs no HELLO
    SERVED    msgpack map: row spec, swap, folder that is watched for models
    RELEASE   none: no more rows come for `slot`, see slots.py

Nothing is ever unpickled, and every length is checked before anything is allocated for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
import zmq

from grove.common.errors import MessageError
from grove.inference_server.interface.client import Legal, Reply, check_legal
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.interface.settings import ServerSettings

PROTOCOL = 1
HELLO, READY, REFUSED, ROWS, REPLY, ERROR, PING, PONG, WINDOW, BYE, UNKNOWN, ASK, SERVED, RELEASE = range(14)
KIND_NAMES = {HELLO: "hello", ROWS: "rows", PING: "ping", WINDOW: "window", BYE: "bye", ASK: "ask", RELEASE: "release"}
"""The kinds a client sends, by their name in the error counters."""
RAGGED = 1
"""Flag of ROWS: legal actions are given and only their logits come back."""

MAX_HEADER_BYTES = 256
MAX_NAME_BYTES = 64
MAX_HELLO_BYTES = 4096
COPY_BELOW_BYTES = 65536
"""Frames below this are copied on sending: cheaper than tracking them."""
LINE_DEAD_MS = 10_000
"""A TCP connection on which nothing was acknowledged for so long is given up, and made anew by the client."""
LOGIT_DTYPES = ("float32", "float16")

SEND_LAST = int(zmq.NOBLOCK)
SEND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
"""As plain integers: combining the library's flags costs more than sending a frame."""
_READABLE = int(zmq.POLLIN)
_MAX_INT = 1 << 63

Buffer = bytes | memoryview
Sender = tuple[str, int]
"""A client's name and its epoch, a random number that names one life of it."""


class Header(NamedTuple):
    """First frame of a message; all but `client` are integers below 2**63."""

    protocol: int
    kind: int
    client: str
    epoch: int
    request: int
    slot: int
    rows: int
    flags: int


def pack_header(kind: int, sender: Sender, request: int = 0, slot: int = 0, rows: int = 0, flags: int = 0) -> bytes:
    """Return the header frame; `sender` names the client, in both directions."""
    return msgpack.packb((PROTOCOL, kind, *sender, request, slot, rows, flags))  # type: ignore[no-any-return]


def unpack_header(frame: Buffer) -> Header:
    """Return the checked header.

    Raises:
        MessageError: malformed, too long, or of another protocol version.
    """
    if len(frame) > MAX_HEADER_BYTES:
        raise MessageError(f"header has {len(frame)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    fields = unpack(frame, "header")
    if not isinstance(fields, list) or not fields:
        raise MessageError("header is not a list")
    if fields[0] != PROTOCOL or isinstance(fields[0], bool):
        raise MessageError(
            f"protocol version {fields[0]!r}, but this side speaks {PROTOCOL}; install one Grove version"
        )
    if len(fields) != len(Header._fields):
        raise MessageError(f"header has {len(fields)} fields, expected {len(Header._fields)}")
    header = Header(*fields)
    name = header.client
    if not isinstance(name, str) or len(name) > MAX_NAME_BYTES or not (name.isascii() and name.isprintable()):
        raise MessageError(f"client name is not plain text of at most {MAX_NAME_BYTES} characters")
    for number in (header.kind, *fields[3:]):
        if type(number) is not int or not 0 <= number < _MAX_INT:
            raise MessageError("a header field is not a number in range")
    return header


def unpack(frame: Buffer, what: str) -> Any:
    """Return msgpack data of bounded size without extension types.

    Raises:
        MessageError: not msgpack.
    """
    try:
        return msgpack.unpackb(frame, raw=False, strict_map_key=True, ext_hook=_no_extension, use_list=True)
    except Exception as error:  # msgpack raises many kinds on garbage
        raise MessageError(f"{what} is not valid msgpack ({type(error).__name__})") from None


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} of {len(data)} bytes")


class Hello(NamedTuple):
    """What a client declares of itself."""

    spec: RowSpec
    window: int
    max_rows: int
    logits: str


def pack_hello(hello: Hello) -> bytes:
    """Return the payload of HELLO."""
    return msgpack.packb(  # type: ignore[no-any-return]
        {"spec": hello.spec.to_dict(), "window": hello.window, "max_rows": hello.max_rows, "logits": hello.logits}
    )


def unpack_hello(frame: Buffer) -> Hello:
    """Return the checked payload of HELLO.

    Raises:
        MessageError: malformed; whether it fits the server is not judged here.
    """
    if len(frame) > MAX_HELLO_BYTES:
        raise MessageError(f"HELLO has {len(frame)} bytes, at most {MAX_HELLO_BYTES} are allowed")
    fields = unpack(frame, "HELLO")
    if not isinstance(fields, dict) or set(fields) != {"spec", "window", "max_rows", "logits"}:
        raise MessageError("HELLO is not a map of spec, window, max_rows and logits")
    window, max_rows = fields["window"], fields["max_rows"]
    if type(window) is not int or type(max_rows) is not int or window < 1 or max_rows < 1:
        raise MessageError("window and max_rows of HELLO must be positive numbers")
    if not isinstance(fields["spec"], dict):
        raise MessageError("spec of HELLO is not a map")
    try:
        spec = RowSpec.from_dict(fields["spec"])
    except (ValueError, TypeError, KeyError) as error:
        raise MessageError(f"row spec of HELLO: {error}") from None
    return Hello(spec, window, max_rows, str(fields["logits"]))


def rows_of(header: Header, frames: Sequence[Buffer], spec: RowSpec, max_rows: int) -> npt.NDArray[Any]:
    """Return the rows [n, *shape] of a ROWS message as a view of its frame.

    Raises:
        MessageError: the lengths do not fit together.
    """
    if not 0 < header.rows <= max_rows:
        raise MessageError(f"a request has {header.rows} rows, but it may have 1 to {max_rows}")
    if len(frames) != (3 if header.flags & RAGGED else 1):
        raise MessageError(f"a request with flags {header.flags} has {len(frames)} payload frames")
    if len(frames[0]) != header.rows * spec.row_bytes:
        raise MessageError(f"{len(frames[0])} bytes are not {header.rows} rows of {spec.row_bytes} bytes")
    flat = np.frombuffer(frames[0], spec.observation_dtype)
    return flat.reshape(header.rows, *spec.observation_shape)


def legal_of(header: Header, frames: Sequence[Buffer], spec: RowSpec) -> Legal | None:
    """Return the legal actions of a ROWS message, copied because they outlive its frames; None without RAGGED.

    Raises:
        MessageError: they do not describe the rows.
    """
    if not header.flags & RAGGED:
        return None
    if (
        len(frames[1]) != 8 * (header.rows + 1)
        or len(frames[2]) % 4
        or len(frames[2]) > 4 * header.rows * spec.num_actions
    ):
        raise MessageError(
            f"legal actions of {len(frames[1])} and {len(frames[2])} bytes do not fit {header.rows} rows"
        )
    offsets, actions = np.frombuffer(frames[1], np.int64).copy(), np.frombuffer(frames[2], np.int32).copy()
    check_legal(spec.num_actions, header.rows, offsets, actions)
    return offsets, actions


def pack_legal(legal: Legal) -> list[bytes]:
    """Return the frames of legal actions: offsets int64, actions int32."""
    offsets, actions = legal
    return [np.asarray(offsets, np.int64).tobytes(), np.asarray(actions, np.int32).tobytes()]


def misfit(hello: Hello, spec: RowSpec, settings: ServerSettings) -> str:
    """Return why a client cannot be served, with the remedy; empty when it can."""
    if hello.spec != spec:
        mine, theirs = spec.to_dict(), hello.spec.to_dict()
        differing = [f"{name} {theirs[name]!r} (server: {mine[name]!r})" for name in mine if theirs[name] != mine[name]]
        return f"the client has {', '.join(differing)}; start both for the same game"
    if hello.window > settings.max_window:
        return f"window {hello.window} exceeds the server's max_window {settings.max_window}; lower it"
    if hello.max_rows > settings.max_request_rows:
        limit = settings.max_request_rows
        return f"requests of {hello.max_rows} rows exceed the server's max_request_rows {limit}; lower it"
    if hello.max_rows * spec.row_bytes > settings.max_message_mb << 20:
        limit = settings.max_message_mb
        return f"{hello.max_rows} rows of {spec.row_bytes} bytes exceed the server's max_message_mb {limit}; lower them"
    if hello.logits not in LOGIT_DTYPES:
        return f"logits dtype {hello.logits!r} is unknown; choose one of {', '.join(LOGIT_DTYPES)}"
    return ""


def pack_reply(reply: Reply) -> bytes:
    """Return the second frame of REPLY."""
    return msgpack.packb(  # type: ignore[no-any-return]
        (reply.version, reply.batch_rows, reply.queue_us, reply.compute_us, reply.failed.tobytes(), reply.error)
    )


def unpack_reply(header: Header, frames: Sequence[Buffer], spec: RowSpec, logits: str, total: int | None) -> Reply:
    """Return the reply in the payload frames of REPLY, its arrays float32, writable and its own.

    `total` is the number of legal actions asked for, None for all logits.

    Raises:
        MessageError: the frames do not fit the request.
    """
    fields = unpack(frames[0], "REPLY")
    shape = (header.rows, spec.num_actions) if total is None else (total,)
    try:
        version, batch_rows, queue_us, compute_us, failed, error = fields
        answer = np.frombuffer(frames[1], logits).reshape(shape).astype(np.float32)
        values = np.frombuffer(frames[2], np.float32).reshape(header.rows, spec.value_size).copy()
        failed_rows = np.frombuffer(failed, np.int32).copy()
    except (ValueError, TypeError, IndexError) as fault:
        raise MessageError(f"a reply does not fit its request: {fault}") from None
    times = batch_rows, queue_us, compute_us
    return Reply(header.request, answer, values, version, failed_rows, *times, error, header.slot)


def send_frames(socket: zmq.Socket[bytes], frames: Sequence[Buffer]) -> None:
    """Send all frames without blocking; large ones without a copy, so nobody may change them afterwards."""
    for frame in frames[:-1]:
        socket.send(frame, SEND_MORE, copy=memoryview(frame).nbytes < COPY_BELOW_BYTES)
    socket.send(frames[-1], SEND_LAST, copy=memoryview(frames[-1]).nbytes < COPY_BELOW_BYTES)


def has_message(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message can be received now; cheaper than trying and catching."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _READABLE)
