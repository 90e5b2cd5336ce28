"""The wire: every message survives its frames, no bad one harms anybody, and a fuzzed server serves on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from grove.common.errors import MessageError
from grove.inference_server import Answer, InferenceServer, Patience, ServerSettings, ZmqClient, private_endpoint
from grove.inference_server.channels import protocol
from tests.support.arithmetic_network import SPEC, ArithmeticBackend, compute, random_legal, random_rows

Eventually = Callable[[Callable[[], Any]], Any]
Frames = list[bytes]
ROWS = random_rows(SPEC, 3, 0)
LEGAL = random_legal(SPEC, 3, 0)
LOGITS, VALUES = compute(SPEC, ROWS)
ANSWER = Answer(7, LOGITS, VALUES, "v", np.array([1], np.int32), 32, 5, 6, "no luck")
MESSAGES = [
    protocol.Hello(SPEC, 4, 64, "float32"),
    protocol.Evaluate(1, "default", ROWS, None),
    protocol.Evaluate(2, "best", ROWS, LEGAL),
    protocol.Window(3),
    protocol.Ping(),
    protocol.Bye(),
    protocol.Ask(),
    protocol.Ready(),
    protocol.Refused("no"),
    protocol.Answered(ANSWER),
    protocol.Answered(ANSWER._replace(logits=np.arange(9, dtype=np.float32), failed=np.zeros(0, np.int32), error="")),
    protocol.Failed(3, "no"),
    protocol.Unknown(),
    protocol.Pong(),
    protocol.Served({"rows": SPEC.to_dict(), "models_folder": "", "models": {"default": "v"}}),
]


def frames_of(message: protocol.Message) -> Frames:
    return [bytes(frame) for frame in protocol.encode(message)]


def head(*fields: object) -> bytes:
    return bytes(msgpack.packb(fields))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other)) and one.dtype == other.dtype
    if isinstance(one, tuple):
        return type(one) is type(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_survives_its_frames(message: protocol.Message) -> None:
    assert same(protocol.decode(frames_of(message), SPEC), message)


HELLO, EVALUATE = frames_of(MESSAGES[0]), frames_of(MESSAGES[2])
ROW_BYTES = ROWS.tobytes()
BAD: dict[str, tuple[Frames, str]] = {
    "no frame at all": ([], "1 to 4 frames"),
    "too many frames": ([HELLO[0], *[b"x"] * 9], "1 to 4 frames"),
    "no msgpack": ([b"\xc1"], "not valid msgpack"),
    "nested without end": ([b"\x91" * 5000], "not valid msgpack"),
    "an extension type": ([msgpack.packb(msgpack.ExtType(5, b"x"))], "not valid msgpack"),
    "a head that is too long": ([b"\x93" + b"\x00" * 9000], "at most 8192"),
    "no list": ([head()[:1]], "not a list"),
    "another protocol": ([head(1, 0, "old", 1, 0, 0, 0, 0)], "protocol version 1"),
    "an unknown kind": ([head(protocol.PROTOCOL, 99)], "no such kind"),
    "fields of other types": ([head(protocol.PROTOCOL, 2, "3")], "other types"),
    "a number for a word": ([head(protocol.PROTOCOL, 1, 1, 0, 3, False), ROW_BYTES], "other types"),
    "a negative number": ([head(protocol.PROTOCOL, 2, -1)], "out of range"),
    "payload where none belongs": ([*frames_of(protocol.Ping()), b"x"], "1 payload frames too many"),
    "a window of none": ([head(protocol.PROTOCOL, 0, SPEC.to_dict(), 0, 1, "float32")], "positive numbers"),
    "rows of nothing known": ([head(protocol.PROTOCOL, 0, {"game": 1}, 1, 1, "float32")], "row spec"),
    "no rows": ([head(protocol.PROTOCOL, 1, 1, "default", 0, False), b""], "not 0 rows"),
    "more rows than came": ([head(protocol.PROTOCOL, 1, 1, "default", 1 << 40, False), ROW_BYTES], "bytes are not"),
    "a frame missing": (EVALUATE[:2], "bytes are not"),
    "legal actions cut short": ([*EVALUATE[:3], EVALUATE[3][:-1]], "do not fit 3 rows"),
    "legal actions beyond the game": ([*EVALUATE[:3], b"\x7f" * len(EVALUATE[3])], "outside 0..6"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_refused_with_its_fault(name: str) -> None:
    frames, said = BAD[name]
    with pytest.raises(MessageError, match=said):
        protocol.decode(frames, SPEC)


@given(st.data())
def test_no_bytes_do_anything_else(data: st.DataObject) -> None:
    """Whatever is made of a message by changing, cutting and adding bytes is a message or refused."""
    frames = list(data.draw(st.sampled_from([frames_of(message) for message in MESSAGES])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(frames) - 1))
        place = data.draw(st.integers(0, len(frames[at])))
        cut = data.draw(st.sampled_from([0, 1, 1 << 20]))
        frames[at] = frames[at][:place] + data.draw(st.binary(max_size=3)) + frames[at][place + cut :]
    with suppress(MessageError):
        protocol.decode(frames, SPEC)


# At a server


class Raw:
    """A client that says what it likes."""

    def __init__(self, endpoint: str, stack: ExitStack) -> None:
        self._context = stack.enter_context(zmq.Context())
        self._dealer = stack.enter_context(self._context.socket(zmq.DEALER))
        self._dealer.setsockopt(zmq.LINGER, 0)
        self._dealer.connect(endpoint)

    def say(self, *frames: bytes) -> None:
        self._dealer.send_multipart(frames)

    def hear(self) -> protocol.Message:
        assert self._dealer.poll(60_000)
        return protocol.decode(self._dealer.recv_multipart(), SPEC)

    def hello(self, window: int = 2) -> None:
        self.say(*frames_of(protocol.Hello(SPEC, window, 64, "float32")))
        assert isinstance(self.hear(), protocol.Ready)

    def reaches(self) -> bool:
        """Ask whether anybody is there; what was sent over a connection that breaks is lost."""
        self.say(*frames_of(protocol.Ask()))
        return bool(self._dealer.poll(100))


class Table:
    """A server, an honest client of it, and a raw one."""

    def __init__(self, stack: ExitStack, endpoint: str) -> None:
        self.backend = ArithmeticBackend(SPEC)
        self.server = stack.enter_context(InferenceServer(SPEC, [self.backend], ServerSettings(max_message_mb=1)))
        self.endpoint = self.server.bind(endpoint)
        honest = ZmqClient(self.endpoint, SPEC, patience=Patience(give_up_after_s=60))
        self._honest = stack.enter_context(closing(honest))
        self.raw = Raw(self.endpoint, stack)

    def serves_on(self) -> None:
        rows = random_rows(SPEC, 20, 1)
        self._honest.submit(rows)
        answer = self._honest.collect(60)
        assert answer is not None
        assert np.array_equal(answer.logits, compute(SPEC, rows)[0])


@pytest.fixture(params=["ipc", "tcp"])
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    with ExitStack() as stack:
        local = request.param == "ipc"
        yield Table(stack, stack.enter_context(private_endpoint()) if local else "tcp://127.0.0.1:*")


def test_bad_messages_are_answered_counted_and_harm_nobody(table: Table) -> None:
    table.raw.hello()
    for name, (frames, said) in BAD.items():
        if frames:
            table.raw.say(*frames)
            answer = table.raw.hear()
            assert isinstance(answer, protocol.Failed), name
            assert said.replace("..", "") in answer.reason.replace("..", "")
    table.raw.say(*frames_of(protocol.Ready()))  # not for a server
    assert isinstance(table.raw.hear(), protocol.Failed)
    table.serves_on()
    assert table.server.stats()["errors"] == {"bad_message": len(BAD)}


def test_what_goes_beyond_hello_is_refused_and_a_stranger_is_told_so(table: Table, eventually: Eventually) -> None:
    raw = table.raw
    raw.say(*frames_of(protocol.Evaluate(1, "default", ROWS, None)))
    assert isinstance(raw.hear(), protocol.Unknown)
    raw.hello(window=2)
    raw.say(*frames_of(protocol.Evaluate(1, "default", random_rows(SPEC, 65, 0), None)))
    raw.say(*frames_of(protocol.Evaluate(2, "worst", ROWS, None)))
    assert [raw.hear()[0] for _ in range(2)] == [1, 2]
    table.backend.may_run.clear()
    for request in (3, 3, 4, 5, 6, 7):  # the second one repeats a request under way: it is neither refused nor computed
        raw.say(*frames_of(protocol.Evaluate(request, "default", ROWS, None)))
    refused = raw.hear()
    assert isinstance(refused, protocol.Failed)
    assert refused.request == 7
    table.backend.may_run.set()
    answers = [raw.hear() for _ in range(4)]
    assert [answer.answer.ticket for answer in answers if isinstance(answer, protocol.Answered)] == [3, 4, 5, 6]
    assert table.server.stats()["resends"] == 1
    assert table.server.stats()["rows"] == 12
    table.serves_on()


def test_a_repeat_that_crosses_its_answer_takes_no_place_from_the_next_request(table: Table) -> None:
    """The answer was on its way when the client lost patience: it goes on, and the server computes the repeat too."""
    table.raw.hello(window=1)
    table.raw.say(*frames_of(protocol.Evaluate(1, "default", ROWS, None)))
    assert isinstance(table.raw.hear(), protocol.Answered)
    table.backend.may_run.clear()
    for request in (1, 2):
        table.raw.say(*frames_of(protocol.Evaluate(request, "default", ROWS, None)))
    table.raw.say(*frames_of(protocol.Ping()))
    assert isinstance(table.raw.hear(), protocol.Pong)  # both were taken before
    table.backend.may_run.set()
    answers = [table.raw.hear() for _ in range(2)]
    assert {answer.answer.ticket for answer in answers if isinstance(answer, protocol.Answered)} == {1, 2}


def test_a_frame_beyond_any_request_ends_its_connection(table: Table, eventually: Eventually) -> None:
    table.raw.say(HELLO[0], b"x" * (2 << 20))
    eventually(table.raw.reaches)  # by a new connection
    table.serves_on()
    assert table.server.stats()["errors"] == {}


def test_a_client_that_reads_nothing_holds_bounded_memory(table: Table, eventually: Eventually) -> None:
    """What it has no room for is dropped; it could ask again."""
    table.raw.hello()
    sent = 0

    def dropped() -> bool:
        nonlocal sent
        for _ in range(50):
            sent += 1
            table.raw.say(*frames_of(protocol.Evaluate(sent, "default", random_rows(SPEC, 64, 0), None)))
        table.serves_on()
        return bool(table.server.stats()["errors"].get("unsendable"))

    eventually(dropped)
    table.serves_on()


def test_a_fuzzed_server_serves_on(table: Table) -> None:
    random = np.random.default_rng(3)
    known = [frames_of(message) for message in MESSAGES]
    table.raw.hello()
    for count in range(3000):
        frames = [bytearray(frame) for frame in known[random.integers(len(known))]]
        for frame in frames:
            if frame and random.integers(2):
                frame[random.integers(len(frame))] = random.integers(256)
        if random.integers(4) == 0:
            frames = frames[: random.integers(1, len(frames) + 1)] + [bytearray(random.bytes(9))] * random.integers(6)
        table.raw.say(*map(bytes, frames))
        if count % 100 == 0:
            table.serves_on()
    table.serves_on()
    errors = table.server.stats()["errors"]
    assert errors["bad_message"] > 100
    assert set(errors) <= {"bad_message", "refused_hello", "unsendable", "unroutable"}
