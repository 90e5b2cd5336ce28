"""Hostile clients: whatever they send, hold or leave, others are served and memory stays bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import psutil
import pytest
import zmq

from grove.inference_server import InferenceServer, Patience, RowSpec, ServerSettings, ZmqClient, private_endpoint
from grove.inference_server.channels import listener, protocol
from grove.inference_server.channels.rate_limiter import NO_BOUND, RateLimits
from tests.support import attacks
from tests.support.arithmetic_network import SPEC, THREE_SEATS, ArithmeticBackend, compute, random_rows

KNOWN = {
    *(f"bad_{kind}" for kind in ("header", "kind", "handshake", *protocol.KIND_NAMES.values())),
    *("refused_hello", "unroutable", "unsendable", "unread", "unanswered", "thrown_out"),
}
"""Causes by which what a stranger does may be counted."""
QUICK = Patience(resend_after_s=0.5, give_up_after_s=60, ping_interval_s=0.2)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def rss_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


def serve(
    stack: ExitStack,
    endpoint: str = "tcp://127.0.0.1:*",
    spec: RowSpec = SPEC,
    shares: RateLimits | None = None,
    **settings: int,
) -> tuple[InferenceServer, str]:
    server = stack.enter_context(InferenceServer(spec, [ArithmeticBackend(spec)], ServerSettings(**settings)))
    return server, server.bind(endpoint, shares=shares)


class Raw:
    """A client that says what it likes."""

    def __init__(self, endpoint: str, stack: ExitStack, spec: RowSpec = SPEC) -> None:
        self.spec, self.epoch = spec, 1
        self._context = stack.enter_context(zmq.Context())
        self.dealer = stack.enter_context(self._context.socket(zmq.DEALER))
        self.dealer.setsockopt(zmq.LINGER, 0)
        self.dealer.connect(endpoint)

    def say(self, kind: int, *frames: bytes, request: int = 0, rows: int = 0) -> None:
        self.dealer.send_multipart([protocol.pack_header(kind, ("raw", self.epoch), request, rows=rows), *frames])

    def hello(self, window: int = 4, max_rows: int = 64) -> tuple[int, bytes]:
        self.say(protocol.HELLO, protocol.pack_hello(protocol.Hello(self.spec, window, max_rows, "float32")))
        return self.answer()

    def rows(self, request: int, count: int = 64) -> None:
        self.say(protocol.ROWS, bytes(count * self.spec.row_bytes), request=request, rows=count)

    def answer(self, seconds: float = 10) -> tuple[int, bytes]:
        """Return kind and second frame of the next answer; kind -1: none came."""
        if not self.dealer.poll(int(seconds * 1000)):
            return -1, b""
        frames = self.dealer.recv_multipart()
        return protocol.unpack_header(frames[0]).kind, frames[1] if len(frames) > 1 else b""

    def kinds(self) -> list[int]:
        """Return the kinds of all answers until none comes for longer than a tick of the server."""
        found = []
        while (kind := self.answer(0.5)[0]) >= 0:
            found.append(kind)
        return found


class Honest:
    """A client in a thread that checks every answer until the end."""

    def __init__(self, endpoint: str) -> None:
        self.answered = 0
        self.fault: BaseException | None = None
        self._stop = threading.Event()
        self._client = ZmqClient(endpoint, SPEC, window=2, max_rows=20, patience=QUICK)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                sent = random_rows(SPEC, 20, self.answered)
                self._client.submit(sent)
                reply = self._client.collect(60)
                assert reply is not None
                assert np.array_equal(reply.logits, compute(SPEC, sent)[0])
                self.answered += 1
        except BaseException as fault:
            self.fault = fault
        finally:
            self._client.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        assert self.fault is None


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_ten_thousand_wrong_messages_harm_nobody(transport: str, stack: ExitStack) -> None:
    wished = stack.enter_context(private_endpoint()) if transport == "ipc" else "tcp://127.0.0.1:*"
    server, endpoint = serve(stack, wished, shares=NO_BOUND)
    honest = Honest(endpoint)
    stack.callback(honest.close)
    with attacks.Attacker(endpoint, SPEC) as attacker:
        attacker.burst("slow", 400)  # it stays
        attacker.burst("changed-bytes", 100)
        memory = rss_mb()
        for kind in (*attacks.MESSAGES, "oversized"):
            before = honest.answered
            for _ in range(10):
                attacker.burst(kind, 1 if kind == "oversized" else 100)
            eventually(lambda before=before: honest.fault or honest.answered > before + 1)
            assert honest.fault is None
        assert sum(attacker.sent.values()) >= 10_000
    errors = server.stats()["errors"]
    for cause in ("bad_header", "bad_rows", "bad_hello", "bad_kind"):
        assert errors[cause] > 100
    assert set(errors) <= KNOWN, errors  # none is a fault of the server's own
    assert rss_mb() - memory < 32


def test_a_client_that_reads_nothing_is_held_by_its_own_window(stack: ExitStack) -> None:
    server, endpoint = serve(stack, spec=THREE_SEATS)
    slow = Raw(endpoint, stack, THREE_SEATS)
    slow.dealer.setsockopt(zmq.RCVHWM, 1)
    slow.say(protocol.HELLO, protocol.pack_hello(protocol.Hello(THREE_SEATS, 4, 64, "float32")))
    memory = rss_mb()
    for number in range(1500):  # answers of 150 kB each: 230 MB
        slow.rows(number)
        if number % 100 == 99:
            time.sleep(0.3)  # a tick: fewer faults in each than get it thrown out
            if {"unsendable", "bad_rows"} <= server.stats()["errors"].keys():
                break
    eventually(lambda: server.stats()["errors"].get("unsendable") and server.stats()["errors"].get("bad_rows"))
    assert rss_mb() - memory < 100  # 8 to 136 unread messages of at most 64 MB, and what the system keeps
    honest = Raw(endpoint, stack, THREE_SEATS)
    assert honest.hello()[0] == protocol.READY
    honest.rows(1)
    assert honest.answer()[0] == protocol.REPLY
    answered = slow.kinds().count(protocol.REPLY)
    assert answered == server.stats()["requests"] - 1  # all that was computed for it, none twice
    slow.rows(9999)
    assert protocol.REPLY in slow.kinds()  # its window is free again


def test_places_are_bounded_and_those_of_lost_clients_are_given_up(stack: ExitStack) -> None:
    server, endpoint = serve(stack, max_clients=3)
    for _ in range(10):  # they come, ask, and vanish without a word
        with ExitStack() as gone:
            client = Raw(endpoint, gone)
            assert client.hello()[0] == protocol.READY
    stayers = [Raw(endpoint, stack) for _ in range(4)]
    kinds = [client.hello() for client in stayers]
    assert [kind for kind, _ in kinds] == [protocol.READY] * 3 + [protocol.REFUSED]
    assert b"raise the server's max_clients (3)" in kinds[3][1]
    assert server.stats()["clients"] == 3
    stayers[0].say(protocol.BYE)
    eventually(lambda: server.stats()["clients"] == 2)
    assert stayers[3].hello()[0] == protocol.READY
    assert server.stats()["errors"] == {"refused_hello": 1}


def test_memory_is_reserved_until_the_last_row_has_left(stack: ExitStack) -> None:
    server, endpoint = serve(stack, max_clients_mb=4)
    client = Raw(endpoint, stack)
    kind, why = client.hello(window=64, max_rows=4096)
    assert kind == protocol.REFUSED
    assert b"max_clients_mb (4)" in why
    with server.parked():
        lives, kind = 0, protocol.READY
        while kind == protocol.READY:  # new lives leave the rows of former ones behind
            client.epoch = lives = lives + 1
            kind, _ = client.hello()
            client.rows(1)
        assert kind == protocol.REFUSED
        assert 1 < lives < 40
        eventually(lambda: server.stats()["waiting_rows"] == 64 * (lives - 1))
    eventually(lambda: server.stats()["waiting_rows"] == 0)
    client.kinds()  # what came late for former lives
    assert client.hello()[0] == protocol.READY


def test_connections_that_say_nothing_are_ended(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_HANDSHAKE_MS", 500)
    server, endpoint = serve(stack)
    honest = Honest(endpoint)
    stack.callback(honest.close)
    attacker = stack.enter_context(attacks.Attacker(endpoint, SPEC))
    attacker.burst("silent", attacks.SILENT)
    attacker.burst("half-open", attacks.SILENT)
    before = honest.answered
    eventually(lambda: server.stats()["errors"].get("bad_handshake", 0) == 2 * attacks.SILENT)
    eventually(lambda: honest.answered > before)
    assert server.stats()["clients"] == 1


def test_who_sends_too_much_for_nothing_is_not_read_for_a_while(stack: ExitStack) -> None:
    server, endpoint = serve(stack)
    noisy, quiet = Raw(endpoint, stack), Raw(endpoint, stack)
    noisy.hello()
    quiet.hello()
    for _ in range(3000):
        noisy.say(protocol.PING)
    assert quiet.hello()[0] == protocol.READY
    assert noisy.kinds().count(protocol.PONG) < 1500
    errors = server.stats()["errors"]
    assert errors["unread"] > 0
    assert errors["thrown_out"] > 0
    assert noisy.hello()[0] == protocol.READY  # over a new connection
    noisy.rows(1)
    assert noisy.answer()[0] == protocol.REPLY


def test_who_repeats_a_window_is_not_thrown_out(stack: ExitStack) -> None:
    server, endpoint = serve(stack)
    client = Raw(endpoint, stack)
    client.hello(window=64, max_rows=1)
    with server.parked():
        for _ in range(2):
            for number in range(63):
                client.rows(number, 1)
        eventually(lambda: server.stats()["resends"] == 63)
    assert client.kinds().count(protocol.REPLY) == 63
    assert server.stats()["errors"] == {}


def test_a_repeat_costs_no_second_computation_and_a_flood_of_them_little(stack: ExitStack) -> None:
    server, endpoint = serve(stack)
    client = Raw(endpoint, stack)
    client.hello()
    for _ in range(1000):
        client.rows(7)
    assert 1 <= client.kinds().count(protocol.REPLY) <= 1000
    assert server.stats()["rows"] == 64


def test_kept_answers_keep_no_batch_alive(stack: ExitStack) -> None:
    server, endpoint = serve(stack, spec=THREE_SEATS, max_delay_us=60_000_000)
    small, large = Raw(endpoint, stack, THREE_SEATS), Raw(endpoint, stack, THREE_SEATS)
    with server.parked():
        for client, count in ((small, 1), (large, 31)):
            client.hello(window=1)
            client.rows(1, count)
        eventually(lambda: server.stats()["waiting_rows"] == 32)
    assert small.answer()[0] == large.answer()[0] == protocol.REPLY
    (channel,) = server._channels
    sessions = channel._sessions.all()
    eventually(lambda: all(1 in session.replies for session in sessions))  # kept a moment after it was sent
    for session in sessions:
        for frame in session.replies[1][2:]:
            whole = frame.obj if frame.obj.base is None else frame.obj.base
            assert whole.nbytes <= 2 * frame.nbytes
