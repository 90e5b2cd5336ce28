"""One contract for both channels: in process and over ZeroMQ, with real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import msgpack
import numpy as np
import pytest
import zmq

from grove.common.errors import ChannelError, HandshakeError, MessageError, ServerGone
from grove.inference_server import (
    Client,
    InferenceServer,
    Patience,
    RowSpec,
    ServerSettings,
    ZmqClient,
    private_endpoint,
)
from grove.inference_server.channels import protocol
from grove.inference_server.channels.sessions import PROVEN
from tests.support.arithmetic_network import (
    POISON,
    SPEC,
    THREE_SEATS,
    ArithmeticBackend,
    compute,
    random_legal,
    random_rows,
)

QUICK = Patience(resend_after_s=0.2, give_up_after_s=60, ping_interval_s=0.1)


class House:
    """A running server and clients of one channel."""

    def __init__(self, channel: str, stack: ExitStack) -> None:
        self.channel = channel
        self._stack = stack

    def serve(self, spec: RowSpec = SPEC, lanes: int = 1, seconds: float = 0.0, **settings: int) -> InferenceServer:
        self.spec = spec
        self.backends = [ArithmeticBackend(spec, seconds=seconds) for _ in range(lanes)]
        self.server = InferenceServer(spec, self.backends, ServerSettings(**settings))
        self._stack.enter_context(self.server)
        assert self.server.wait_ready(60)
        if self.channel != "inproc":
            wished = "tcp://127.0.0.1:*" if self.channel == "tcp" else self._stack.enter_context(private_endpoint())
            self.endpoint = self.server.bind(wished)
        return self.server

    def client(self, window: int = 2, max_rows: int = 1024, **options: object) -> Client:
        if self.channel == "inproc":
            client: Client = self.server.connect(window)
        else:
            client = ZmqClient(self.endpoint, self.spec, window=window, max_rows=max_rows, patience=QUICK, **options)
        self._stack.callback(client.close)
        return client


@pytest.fixture(params=["inproc", "ipc", "tcp"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(request.param, stack)


@pytest.fixture(params=["ipc", "tcp"])
def remote(request: pytest.FixtureRequest) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(request.param, stack)


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def prove(client: Client) -> None:
    """Let it send as many requests as make batches wait for it."""
    for _ in range(PROVEN):
        client.submit(random_rows(SPEC, 4, 0))
        assert client.collect(60) is not None


@pytest.mark.parametrize("spec", [SPEC, THREE_SEATS])
def test_served_equals_direct(house: House, spec: RowSpec) -> None:
    house.serve(spec, lanes=2)
    client = house.client(window=1)
    for seed, count in enumerate([1, 7, 8, 32, 33, 100, 300]):
        rows = random_rows(spec, count, seed)
        number = client.submit(rows)
        reply = client.collect(60)
        logits, values = compute(spec, rows)
        assert reply.request == number
        assert np.array_equal(reply.logits, logits)
        assert np.array_equal(reply.values, values)
        assert (reply.logits.dtype, reply.values.dtype) == (np.float32, np.float32)
        assert reply.version == "0123456789abcdef"
        assert 0 < reply.batch_rows <= 32
        assert reply.failed.shape == (0,)


@pytest.mark.parametrize("spec", [SPEC, THREE_SEATS])
def test_only_legal_logits_come_back(house: House, spec: RowSpec) -> None:
    house.serve(spec)
    client = house.client(window=1)
    for seed, count in enumerate([1, 20, 90]):
        rows, (offsets, actions) = random_rows(spec, count, seed), random_legal(spec, count, seed)
        client.submit(rows, legal=(offsets, actions))
        reply = client.collect(60)
        logits, values = compute(spec, rows)
        assert np.array_equal(reply.logits, logits[np.repeat(np.arange(count), np.diff(offsets)), actions])
        assert np.array_equal(reply.values, values)


def test_many_clients_with_several_requests_each(house: House) -> None:
    house.serve(lanes=2)
    faults: list[BaseException] = []

    def work(index: int) -> None:
        try:
            client = house.client(window=3)
            sent: dict[int, np.ndarray] = {}
            for step in range(40):
                while len(sent) == 3:
                    reply = client.collect(60)
                    assert np.array_equal(reply.logits, compute(SPEC, sent.pop(reply.request))[0])
                rows = random_rows(SPEC, 1 + (index * 7 + step * 5) % 60, index * 1000 + step)
                sent[client.submit(rows)] = rows
            while sent:
                reply = client.collect(60)
                assert np.array_equal(reply.logits, compute(SPEC, sent.pop(reply.request))[0])
            client.set_window(0)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults
    stats = house.server.stats()
    assert stats["requests"] == 240
    assert stats["rows"] == sum(1 + (index * 7 + step * 5) % 60 for index in range(6) for step in range(40))
    assert stats["waiting_rows"] == 0


def test_the_window_holds(house: House) -> None:
    house.serve()
    client = house.client(window=2)
    rows = random_rows(SPEC, 4, 0)
    client.submit(rows)
    client.submit(rows)
    with pytest.raises(MessageError, match="window"):
        client.submit(rows)
    assert client.collect(60) is not None
    client.submit(rows)
    assert client.collect(60) is not None
    assert client.collect(60) is not None
    assert client.collect(60) is None  # nothing is outstanding: no wait


def test_a_blocked_client_waits_for_no_clock(house: House) -> None:
    house.serve(max_delay_us=60_000_000)
    client = house.client(window=2)
    for requests in (2, 1):
        client.set_window(requests)
        for _ in range(requests):
            client.submit(random_rows(SPEC, 4, 0))
        for _ in range(requests):
            assert client.collect(60) is not None
    assert house.server.stats()["reasons"]["all_blocked"] >= 2
    assert house.server.stats()["reasons"]["delay"] == 0


def test_rows_that_do_not_fit_are_refused_at_once(house: House) -> None:
    house.serve()
    client = house.client(window=1)
    rows = random_rows(SPEC, 4, 0)
    offsets, actions = random_legal(SPEC, 4, 0)
    for bad in (rows.astype(np.float32), rows[:, :1], rows[:0], random_rows(SPEC, 5000, 0)):
        with pytest.raises(MessageError):
            client.submit(bad)
    for legal in ((offsets[:-1], actions), (offsets, actions + 7), (offsets + 1, actions)):
        with pytest.raises(MessageError):
            client.submit(rows, legal=legal)
    client.submit(rows)
    assert np.array_equal(client.collect(60).logits, compute(SPEC, rows)[0])


def test_a_fault_in_a_batch_fails_its_rows_and_the_lane_lives_on(house: House) -> None:
    house.serve()
    client = house.client(window=1)
    rows = random_rows(SPEC, 40, 0)
    rows[35, 0, 0, 0] = POISON
    client.submit(rows)
    reply = client.collect(60)
    assert list(reply.failed) == [35]
    assert "poisoned" in reply.error
    assert np.array_equal(reply.logits[:32], compute(SPEC, rows[:32])[0])
    rows = random_rows(SPEC, 3, 0)
    client.submit(rows)
    assert np.array_equal(client.collect(60).logits, compute(SPEC, rows)[0])
    assert house.server.stats()["errors"] == {"batch:FloatingPointError": 1}


def test_collect_times_out_and_the_reply_still_comes(house: House) -> None:
    house.serve()
    house.backends[0].may_run.clear()
    client = house.client(window=1)
    client.submit(random_rows(SPEC, 4, 0))
    assert client.collect(0.05) is None
    assert client.collect(0) is None
    house.backends[0].may_run.set()
    assert client.collect(60) is not None


def test_a_client_that_closes_holds_nobody_up(house: House) -> None:
    house.serve(max_delay_us=60_000_000, idle_after_ms=60_000)
    leaver, stayer = house.client(window=1), house.client(window=1)
    prove(leaver)
    stayer.submit(random_rows(SPEC, 4, 0))
    assert stayer.collect(0.05) is None  # the other one is being waited for
    leaver.close()
    leaver.close()
    assert stayer.collect(60) is not None


def test_a_client_told_dead_by_its_supervisor_holds_nobody_up(house: House) -> None:
    house.serve(max_delay_us=60_000_000, idle_after_ms=60_000)
    inside = house.channel == "inproc"
    lost = house.server.connect(1, "worker-3") if inside else house.client(window=1, name="worker-3")
    stayer = house.client(window=1)
    prove(lost)
    stayer.submit(random_rows(SPEC, 4, 0))
    assert stayer.collect(0.05) is None
    house.server.client_gone("worker-3")
    assert stayer.collect(60) is not None
    stayer.set_window(0)
    lost.submit(random_rows(SPEC, 4, 0))  # it was alive after all
    assert lost.collect(60) is not None


def test_parked_lanes_answer_after_unparking(house: House) -> None:
    house.serve()
    client = house.client(window=1)
    with house.server.parked() as still:
        assert still
        client.submit(random_rows(SPEC, 4, 0))
        assert client.collect(0.1) is None
    assert client.collect(60) is not None


def test_clients_of_both_channels_share_batches() -> None:
    with ExitStack() as stack:
        house = House("ipc", stack)
        house.serve(max_delay_us=60_000_000)
        inside, outside = house.server.connect(1), house.client(window=1)
        house.backends[0].may_run.clear()
        blocker = house.server.connect(1)
        blocker.submit(random_rows(SPEC, 32, 9))
        eventually(lambda: house.backends[0].batches)
        inside.submit(random_rows(SPEC, 4, 0))
        outside.submit(random_rows(SPEC, 5, 1))
        eventually(lambda: house.server.stats()["waiting_rows"] == 9)
        blocker.close()
        house.backends[0].may_run.set()
        assert np.array_equal(inside.collect(60).logits, compute(SPEC, random_rows(SPEC, 4, 0))[0])
        assert np.array_equal(outside.collect(60).logits, compute(SPEC, random_rows(SPEC, 5, 1))[0])
        assert house.backends[0].batches == [(32, 32), (9, 16)]


# Over ZeroMQ only


def test_half_precision_logits(remote: House) -> None:
    remote.serve()
    client = remote.client(window=1, logits_dtype="float16")
    rows = random_rows(SPEC, 20, 0)
    client.submit(rows)
    reply = client.collect(60)
    assert reply.logits.dtype == np.float32
    assert np.allclose(reply.logits, compute(SPEC, rows)[0], rtol=1e-3)


def test_a_misfit_is_refused_at_hello(remote: House) -> None:
    remote.serve()
    with pytest.raises(HandshakeError, match="start both for the same game"):
        ZmqClient(remote.endpoint, THREE_SEATS, patience=QUICK)
    with pytest.raises(HandshakeError, match="max_window"):
        ZmqClient(remote.endpoint, SPEC, window=100, patience=QUICK)
    assert set(remote.server.stats()["errors"]) == {"refused_hello"}
    assert remote.server.stats()["clients"] == 0


def test_a_stranger_is_not_waited_for(remote: House) -> None:
    remote.serve(max_delay_us=60_000_000, idle_after_ms=60_000)
    stranger, honest = remote.client(window=2), remote.client(window=1)
    for _ in range(PROVEN - 1):  # it keeps one request outstanding of two
        stranger.submit(random_rows(SPEC, 4, 0))
        assert stranger.collect(60) is not None
        honest.submit(random_rows(SPEC, 4, 0))
        assert honest.collect(60) is not None
    assert remote.server.stats()["reasons"]["delay"] == 0


def raw_dealer(endpoint: str, stack: ExitStack) -> zmq.Socket[bytes]:
    context = stack.enter_context(zmq.Context())
    dealer = stack.enter_context(context.socket(zmq.DEALER))
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(endpoint)
    return dealer


def test_another_protocol_version_is_told_so(remote: House) -> None:
    remote.serve()
    with ExitStack() as stack:
        dealer = raw_dealer(remote.endpoint, stack)
        dealer.send_multipart([msgpack.packb([9, protocol.HELLO, "old", 1, 0, 0, 0, 0]), b""])
        assert dealer.poll(5000)
        header, reason = dealer.recv_multipart()
        assert protocol.unpack_header(header).kind == protocol.ERROR
        assert b"protocol version 9" in reason


def test_a_repeated_request_is_answered_once_computed_once(remote: House) -> None:
    remote.serve()
    remote.backends[0].may_run.clear()
    rows = random_rows(SPEC, 3, 0)
    with ExitStack() as stack:
        dealer = raw_dealer(remote.endpoint, stack)
        dealer.send_multipart(
            [
                protocol.pack_header(protocol.HELLO, ("r", 1)),
                protocol.pack_hello(protocol.Hello(SPEC, 1, 64, "float32")),
            ]
        )
        dealer.recv_multipart()
        message = [protocol.pack_header(protocol.ROWS, ("r", 1), 5, 0, 3), rows.tobytes()]
        dealer.send_multipart(message)
        dealer.send_multipart(message)  # in flight: attaches
        eventually(lambda: remote.server.stats()["resends"] == 1)
        remote.backends[0].may_run.set()
        first = dealer.recv_multipart()
        dealer.send_multipart(message)  # completed: replayed
        assert dealer.poll(5000)
        assert dealer.recv_multipart() == first
        assert not dealer.poll(100)
    assert remote.server.stats()["rows"] == 3
    assert remote.server.stats()["resends"] == 2


def test_a_slow_answer_is_asked_for_again_and_comes_once(remote: House) -> None:
    remote.serve()
    remote.backends[0].may_run.clear()
    client = remote.client(window=2)
    client.submit(random_rows(SPEC, 3, 0))
    assert client.collect(1.0) is None
    remote.backends[0].may_run.set()
    assert client.collect(60) is not None
    assert client.collect(60) is None
    assert remote.server.stats()["resends"] >= 1
    assert remote.server.stats()["rows"] == 3


def test_a_restarted_server_gets_hello_and_the_outstanding_requests(remote: House) -> None:
    with ExitStack() as first_life:
        before = House(remote.channel, first_life)
        before.serve()
        before.backends[0].may_run.clear()
        client = ZmqClient(before.endpoint, SPEC, window=2, patience=QUICK)
        first_life.callback(before.backends[0].may_run.set)
        sent = {}
        for seed in range(2):
            rows = random_rows(SPEC, 20, seed)
            sent[client.submit(rows)] = rows
        epoch = client.server_epoch
        assert client.collect(0.1) is None
        before.backends[0].may_run.set()
        before.backends[0].seconds = 0.1
        endpoint = before.endpoint
        before.server._batcher.park(60)  # what was answered by now may arrive; the rest is lost with the server
        before.server.close()
        with InferenceServer(SPEC, [ArithmeticBackend(SPEC)]) as after:
            after.bind(endpoint)
            while sent:
                reply = client.collect(60)
                assert np.array_equal(reply.logits, compute(SPEC, sent.pop(reply.request))[0])
            rows = random_rows(SPEC, 5, 7)
            client.set_window(1)
            client.submit(rows)
            assert np.array_equal(client.collect(60).logits, compute(SPEC, rows)[0])
            assert client.server_epoch != epoch
            client.close()


def test_a_server_that_ends_for_good_is_noticed(house: House) -> None:
    server = house.serve()
    house.backends[0].may_run.clear()
    client = house.client(window=1)
    client.submit(random_rows(SPEC, 4, 0))
    eventually(lambda: house.backends[0].batches)
    threading.Timer(0.2, house.backends[0].may_run.set).start()
    server.drain(60)
    server.close()
    if house.channel == "inproc":
        client.collect(60)
        with pytest.raises(ServerGone):
            client.submit(random_rows(SPEC, 4, 0))
        return
    client._patience = Patience(give_up_after_s=0.3, ping_interval_s=0.1)
    assert client.collect(60) is not None  # answered before the end
    client.submit(random_rows(SPEC, 4, 0))
    with pytest.raises(ChannelError):
        client.collect(60)
