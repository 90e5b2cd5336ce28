"""The protocol between ZeroMQ clients and the server: every message as one type, and its frames.

A message is [routing id,] head, arrays. The head is a msgpack array [protocol, kind, fields of the kind]:

    from the client
    Hello      row spec, window, most rows of a request, dtype of the logits
    Evaluate   request, model, rows, whether legal actions follow; then the rows, offsets (int64) and actions (int32)
    Window     requests that will be outstanding from now on
    Ping       answered by Pong
    Bye
    Ask        what is served? needs no Hello; answered by Served

    from the server
    Ready      the answer to Hello
    Refused    why Hello does not fit, with a remedy
    Answered   request, rows, model version, figures, fault; then logits, values (float32) and failed rows (int32)
    Failed     request, and why this one message was refused
    Unknown    the server does not know this client (it was started again): say Hello
    Pong, Served

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
from grove.inference_server.interface.client import Answer, Legal, Rows, check_legal
from grove.inference_server.interface.rows import RowSpec

PROTOCOL = 2
MAX_HEAD_BYTES = 8192
MAX_FRAMES = 4
"""Frames of the longest message."""
LINE_DEAD_MS = 10_000
"""A TCP connection on which nothing was acknowledged for so long is given up, and made anew by the client."""
LOGIT_DTYPES = ("float32", "float16")
_MAX_TEXT = 2000
_MAX_INT = 1 << 63
_COPY_BELOW_BYTES = 65536
"""Frames below this are copied on sending: cheaper than tracking them."""
_SEND_LAST = int(zmq.NOBLOCK)
_SEND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
"""As plain integers: combining the library's flags costs more than sending a frame."""
_READABLE = int(zmq.POLLIN)

Buffer = bytes | memoryview


class Hello(NamedTuple):
    """What a client declares of itself."""

    spec: RowSpec
    window: int
    max_rows: int
    logits: str


class Evaluate(NamedTuple):
    """Rows to be evaluated; the observations are a view of their frame."""

    request: int
    model: str
    observations: Rows
    legal: Legal | None


class Window(NamedTuple):
    """How many requests the client will keep outstanding."""

    requests: int


class Ping(NamedTuple):
    """Are you there?"""


class Bye(NamedTuple):
    """The client leaves."""


class Ask(NamedTuple):
    """What do you serve?"""


class Ready(NamedTuple):
    """The client may send rows."""


class Refused(NamedTuple):
    """The client cannot be served."""

    reason: str


class Answered(NamedTuple):
    """The answer to one request."""

    answer: Answer


class Failed(NamedTuple):
    """One message was refused; request 0 is none."""

    request: int
    reason: str


class Unknown(NamedTuple):
    """Who are you?"""


class Pong(NamedTuple):
    """I am here."""


class Served(NamedTuple):
    """What the server serves: rows, the folder it watches for models, models by name."""

    about: dict[str, Any]


Message = Hello | Evaluate | Window | Ping | Bye | Ask | Ready | Refused | Answered | Failed | Unknown | Pong | Served
_FIELDS: dict[Any, tuple[type, ...]] = {
    Hello: (dict, int, int, str),
    Evaluate: (int, str, int, bool),
    Window: (int,),
    Ping: (),
    Bye: (),
    Ask: (),
    Ready: (),
    Refused: (str,),
    Answered: (int, int, str, int, int, int, str, str, bool),
    Failed: (int, str),
    Unknown: (),
    Pong: (),
    Served: (dict,),
}
"""The kinds in the order of their numbers, with the types of their fields in the head."""
_KINDS = list(_FIELDS)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


def encode(message: Message) -> list[Buffer]:
    """Return the frames of a message."""
    fields: Sequence[Any] = message
    payload: list[Buffer] = []
    if isinstance(message, Hello):
        fields = message.spec.to_dict(), *message[1:]
    elif isinstance(message, Evaluate):
        rows, legal = message.observations, message.legal
        fields = message.request, message.model, len(rows), legal is not None
        payload = [rows.tobytes()]
        if legal is not None:
            payload += [np.asarray(legal[0], np.int64).tobytes(), np.asarray(legal[1], np.int32).tobytes()]
    elif isinstance(message, Answered):
        answer = message.answer
        logits, values = answer.logits, answer.values
        figures = answer.batch_rows, answer.queue_us, answer.compute_us, answer.error[:_MAX_TEXT]
        fields = answer.ticket, len(values), answer.version, *figures, logits.dtype.name, logits.ndim == 1
        payload = [logits.data, values.data, answer.failed.tobytes()]
    return [msgpack.packb((PROTOCOL, _NUMBERS[type(message)], *fields)), *payload]


def decode(frames: Sequence[Buffer], spec: RowSpec) -> Message:
    """Return the checked message in `frames`, for rows of `spec`.

    Raises:
        MessageError: malformed, too long, or of another protocol version.
    """
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise MessageError(f"a message has 1 to {MAX_FRAMES} frames, not {len(frames)}")
    kind, fields = _head(frames[0])
    payload = frames[1:]
    if kind is Evaluate:
        return _evaluate(spec, payload, *fields)
    if kind is Answered:
        return _answered(spec, payload, *fields)
    if payload:
        raise MessageError(f"{kind.__name__} has {len(payload)} payload frames too many")
    if kind is Hello:
        return _hello(*fields)
    message: Message = kind(*fields)
    return message


def _head(frame: Buffer) -> tuple[Any, list[Any]]:
    """Return the kind of a message and its fields, which have the right types."""
    if len(frame) > MAX_HEAD_BYTES:
        raise MessageError(f"a head has {len(frame)} bytes, at most {MAX_HEAD_BYTES} are allowed")
    try:
        head = msgpack.unpackb(frame, raw=False, strict_map_key=True, ext_hook=_no_extension, use_list=True)
    except Exception as error:  # msgpack raises many kinds on garbage
        raise MessageError(f"a head is not valid msgpack ({type(error).__name__})") from None
    if not isinstance(head, list) or len(head) < 2:
        raise MessageError("a head is not a list")
    protocol, number, *fields = head
    if type(protocol) is not int or protocol != PROTOCOL:
        raise MessageError(f"protocol version {protocol!r}, but this side speaks {PROTOCOL}; install one Grove version")
    if type(number) is not int or not 0 <= number < len(_KINDS):
        raise MessageError("there is no such kind of message")
    kind = _KINDS[number]
    if tuple(map(type, fields)) != _FIELDS[kind]:
        raise MessageError(f"{kind.__name__} has fields of other types")
    if not all(0 <= field < _MAX_INT for field in fields if type(field) is int):
        raise MessageError(f"{kind.__name__} has a number out of range")
    return kind, fields


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} of {len(data)} bytes")


def _hello(spec: dict[str, Any], window: int, max_rows: int, logits: str) -> Hello:
    if not window or not max_rows:
        raise MessageError("window and max_rows of Hello must be positive numbers")
    try:
        return Hello(RowSpec.from_dict(spec), window, max_rows, logits)
    except (ValueError, TypeError, KeyError) as error:
        raise MessageError(f"row spec of Hello: {error}") from None


def _evaluate(
    spec: RowSpec, payload: Sequence[Buffer], request: int, model: str, rows: int, ragged: bool
) -> Evaluate:
    if not rows or len(payload) != (3 if ragged else 1) or len(payload[0]) != rows * spec.row_bytes:
        lengths = [len(frame) for frame in payload]
        raise MessageError(f"frames of {lengths} bytes are not {rows} rows of {spec.row_bytes} bytes")
    observations = np.frombuffer(payload[0], spec.observation_dtype).reshape(rows, *spec.observation_shape)
    return Evaluate(request, model, observations, _legal(spec, rows, *payload[1:]) if ragged else None)


def _legal(spec: RowSpec, rows: int, offsets: Buffer, actions: Buffer) -> Legal:
    """Return legal actions, copied because they outlive their frames."""
    if len(offsets) != 8 * (rows + 1) or len(actions) % 4 or len(actions) > 4 * rows * spec.num_actions:
        raise MessageError(f"legal actions of {len(offsets)} and {len(actions)} bytes do not fit {rows} rows")
    legal = np.frombuffer(offsets, np.int64).copy(), np.frombuffer(actions, np.int32).copy()
    check_legal(spec.num_actions, rows, *legal)
    return legal


def _answered(spec: RowSpec, payload: Sequence[Buffer], ticket: int, rows: int, *fields: Any) -> Answered:
    version, batch_rows, queue_us, compute_us, error, dtype, ragged = fields
    if len(payload) != 3 or dtype not in LOGIT_DTYPES:
        raise MessageError("an answer has three payload frames, logits of a known type first")
    try:
        logits: npt.NDArray[np.float32] = np.frombuffer(payload[0], dtype).astype(np.float32)
        values = np.frombuffer(payload[1], np.float32).reshape(rows, spec.value_size).copy()
        failed = np.frombuffer(payload[2], np.int32).copy()
        shape = (-1,) if ragged else (rows, spec.num_actions)
        logits = logits.reshape(shape)
    except ValueError as fault:
        raise MessageError(f"an answer does not fit its request: {fault}") from None
    return Answered(Answer(ticket, logits, values, version, failed, batch_rows, queue_us, compute_us, error))


def send(socket: zmq.Socket[bytes], frames: Sequence[Buffer]) -> None:
    """Send all frames without blocking; large ones without a copy, so nobody may change them afterwards."""
    for frame in frames[:-1]:
        socket.send(frame, _SEND_MORE, copy=memoryview(frame).nbytes < _COPY_BELOW_BYTES)
    socket.send(frames[-1], _SEND_LAST, copy=memoryview(frames[-1]).nbytes < _COPY_BELOW_BYTES)


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message can be received now; cheaper than trying and catching."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _READABLE)
