"""One contract over every channel: in the server's process, over a local socket, over TCP. Then what ZeroMQ adds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from grove.common.errors import HandshakeError, MessageError, ServerGone
from grove.inference_server import (
    Answer,
    Client,
    InferenceServer,
    Patience,
    RowSpec,
    ServerSettings,
    ZmqClient,
    private_endpoint,
)
from tests.support.arithmetic_network import (
    POISON,
    SPEC,
    THREE_SEATS,
    ArithmeticBackend,
    Model,
    compute,
    random_legal,
    random_rows,
)

Eventually = Callable[[Callable[[], Any]], Any]
QUICK = Patience(resend_after_s=0.2, give_up_after_s=60, ping_interval_s=0.1)
NOBODY_WAITS = {"max_delay_us": 60_000_000, "idle_after_ms": 3_600_000}
"""Settings under which rows leave by an event alone."""


class House:
    """A server with one channel; makes clients of it."""

    def __init__(self, channel: str, stack: ExitStack) -> None:
        self.channel, self._stack = channel, stack
        self.wished = stack.enter_context(private_endpoint()) if channel == "ipc" else "tcp://127.0.0.1:*"

    def serve(self, spec: RowSpec = SPEC, lanes: int = 1, **settings: int) -> InferenceServer:
        self.backends = [ArithmeticBackend(spec) for _ in range(lanes)]
        self.server = self._stack.enter_context(InferenceServer(spec, self.backends, ServerSettings(**settings)))
        assert self.server.wait_ready(60)
        if self.channel != "inproc":
            self.wished = self.server.bind(self.wished)
        return self.server

    def client(self, window: int, **options: Any) -> Client:
        if self.channel == "inproc":
            client: Client = self.server.connect(window)
        else:
            client = ZmqClient(self.wished, self.server.row_spec, window=window, patience=QUICK, **options)
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


def collected(client: Client) -> Answer:
    answer = client.collect(60)
    assert answer is not None
    return answer


def evaluate(client: Client, rows: np.ndarray, **options: Any) -> Answer:
    client.submit(rows, **options)
    return collected(client)


def ask(client: Client, seed: int = 0) -> Answer:
    """Evaluate random rows and check the answer."""
    sent = random_rows(SPEC, 4, seed)
    answer = evaluate(client, sent)
    assert np.array_equal(answer.logits, compute(SPEC, sent)[0])
    return answer


@pytest.mark.parametrize("spec", [SPEC, THREE_SEATS])
def test_served_equals_direct(house: House, spec: RowSpec) -> None:
    house.serve(spec, lanes=2)
    client = house.client(window=1)
    for seed, count in enumerate([1, 7, 8, 32, 33, 300]):
        rows, (offsets, actions) = random_rows(spec, count, seed), random_legal(spec, count, seed)
        logits, values = compute(spec, rows)
        for legal in (None, (offsets, actions)):
            ticket = client.submit(rows, legal)
            answer = collected(client)
            wanted = logits if legal is None else logits[np.repeat(np.arange(count), np.diff(offsets)), actions]
            assert answer.ticket == ticket
            assert np.array_equal(answer.logits, wanted)
            assert np.array_equal(answer.values, values)
            assert (answer.logits.dtype, answer.values.dtype) == (np.float32, np.float32)
            assert answer.version == "0123456789abcdef"
            assert 0 < answer.batch_rows <= 32
            assert answer.failed.shape == (0,)


def test_many_clients_with_several_requests_each(house: House) -> None:
    house.serve(lanes=2)
    faults: list[BaseException] = []

    def work(index: int) -> None:
        sent: dict[int, np.ndarray] = {}

        def receive() -> None:
            answer = collected(client)
            assert np.array_equal(answer.logits, compute(SPEC, sent.pop(answer.ticket))[0])

        try:
            client = house.client(window=3)
            for step in range(40):
                while len(sent) == 3:
                    receive()
                rows = random_rows(SPEC, 1 + (index * 7 + step * 5) % 60, index * 1000 + step)
                sent[client.submit(rows)] = rows
            while sent:
                receive()
            client.set_window(0)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    stats = house.server.stats()
    assert stats["requests"] == 240
    assert stats["waiting_rows"] == 0


def test_the_window_holds(house: House) -> None:
    house.serve()
    client = house.client(window=2)
    rows = random_rows(SPEC, 4, 0)
    client.submit(rows)
    client.submit(rows)
    with pytest.raises(MessageError, match="window"):
        client.submit(rows)
    collected(client)
    client.submit(rows)
    collected(client)
    collected(client)
    assert client.collect(60) is None  # nothing is outstanding: no wait


def test_a_blocked_client_waits_for_no_clock(house: House) -> None:
    house.serve(**NOBODY_WAITS)
    client = house.client(window=2)
    for requests in (2, 1):
        client.set_window(requests)
        for _ in range(requests):
            client.submit(random_rows(SPEC, 4, 0))
        for _ in range(requests):
            collected(client)
    reasons = house.server.stats()["reasons"]
    assert reasons["all_blocked"] >= 2
    assert reasons["delay"] == 0


def test_rows_that_do_not_fit_are_refused_at_once(house: House) -> None:
    house.serve()
    client = house.client(window=1)
    rows, (offsets, actions) = random_rows(SPEC, 4, 0), random_legal(SPEC, 4, 0)
    for bad in (rows.astype(np.float32), rows[:, :1], rows[:0], random_rows(SPEC, 5000, 0)):
        with pytest.raises(MessageError):
            client.submit(bad)
    for legal in ((offsets[:-1], actions), (offsets, actions + 7), (offsets + 1, actions)):
        with pytest.raises(MessageError):
            client.submit(rows, legal)
    ask(client)


def test_every_model_answers_by_its_name(house: House, eventually: Eventually) -> None:
    """One server may serve several; a request belongs to the model that had the name when it came."""
    server = house.serve()
    server.swap(Model("best", 100.0), "best")
    client = house.client(window=2)
    assert ask(client).version == "0123456789abcdef"
    rows = random_rows(SPEC, 4, 0)
    backend = house.backends[0]
    backend.may_run.clear()
    client.submit(rows, model="best")
    eventually(lambda: len(backend.batches) == 2)
    server.swap(Model("better", 200.0), "best")
    client.submit(rows, model="best")
    eventually(lambda: server.stats()["waiting_rows"] == 4)
    backend.may_run.set()
    for version, added in (("best", 100.0), ("better", 200.0)):
        answer = collected(client)
        assert answer.version == version
        assert np.array_equal(answer.logits, compute(SPEC, rows)[0] + np.float32(added))
    server.tidy()
    assert sorted(house.backends[0].models) == [0, 2]
    with pytest.raises(MessageError, match="no model 'worst'"):
        evaluate(client, rows, model="worst")
    ask(client)


def test_a_fault_in_a_batch_fails_its_rows_and_the_lane_lives_on(house: House) -> None:
    house.serve()
    client = house.client(window=1)
    rows = random_rows(SPEC, 40, 0)
    rows[35, 0, 0, 0] = POISON
    client.submit(rows)
    answer = collected(client)
    assert list(answer.failed) == [35]
    assert "poisoned" in answer.error
    assert np.array_equal(answer.logits[:32], compute(SPEC, rows[:32])[0])
    ask(client)
    assert house.server.stats()["errors"] == {"batch:FloatingPointError": 1}


def test_collect_times_out_and_the_answer_still_comes_once(house: House) -> None:
    """A slow answer is asked for again over ZeroMQ; it is computed and given once."""
    house.serve()
    house.backends[0].may_run.clear()
    client = house.client(window=2)
    client.submit(random_rows(SPEC, 3, 0))
    assert client.collect(0) is None
    while house.channel != "inproc" and not house.server.stats()["resends"]:
        assert client.collect(0.1) is None
    house.backends[0].may_run.set()
    collected(client)
    assert client.collect(60) is None
    assert house.server.stats()["rows"] == 3


def test_a_client_that_closes_holds_nobody_up(house: House) -> None:
    house.serve(**NOBODY_WAITS)
    leaver, stayer = house.client(window=1), house.client(window=1)
    ask(leaver)
    stayer.submit(random_rows(SPEC, 4, 0))
    assert stayer.collect(0.05) is None  # the other one is being waited for
    leaver.close()
    leaver.close()
    collected(stayer)


def test_a_server_that_ends_answers_what_it_took_and_is_noticed(house: House) -> None:
    server = house.serve()
    house.backends[0].may_run.clear()
    options = {} if house.channel == "inproc" else {"patience": Patience(give_up_after_s=2, ping_interval_s=0.1)}
    client = server.connect(1) if not options else ZmqClient(house.wished, SPEC, window=1, **options)
    client.submit(random_rows(SPEC, 4, 0))
    while not house.backends[0].batches:
        client.collect(0.01)
    threading.Timer(0, house.backends[0].may_run.set).start()
    assert server.drain(60)
    server.close()
    collected(client)
    with pytest.raises(ServerGone):
        ask(client)
    client.close()


def test_clients_of_both_channels_share_batches(eventually: Eventually) -> None:
    with ExitStack() as stack:
        house = House("ipc", stack)
        house.serve(**NOBODY_WAITS)
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
        assert np.array_equal(collected(inside).logits, compute(SPEC, random_rows(SPEC, 4, 0))[0])
        assert np.array_equal(collected(outside).logits, compute(SPEC, random_rows(SPEC, 5, 1))[0])
        assert house.backends[0].batches == [(32, 32), (9, 16)]


# Over ZeroMQ only


def test_half_precision_logits(remote: House) -> None:
    remote.serve()
    client = remote.client(window=1, logits_dtype="float16")
    rows = random_rows(SPEC, 20, 0)
    client.submit(rows)
    answer = collected(client)
    assert answer.logits.dtype == np.float32
    assert np.allclose(answer.logits, compute(SPEC, rows)[0], rtol=1e-3)


def test_a_misfit_is_refused_at_hello(remote: House) -> None:
    server = remote.serve(max_clients=1)
    for spec, options, said in (
        (THREE_SEATS, {}, "start both for the same game"),
        (SPEC, {"window": 100}, "max_window"),
        (SPEC, {"max_rows": 5000}, "max_request_rows"),
        (SPEC, {"logits_dtype": "int8"}, "is unknown"),
    ):
        with pytest.raises(HandshakeError, match=said):
            ZmqClient(remote.wished, spec, patience=QUICK, **options)
    assert set(server.stats()["errors"]) == {"refused_hello"}
    remote.client(window=1)
    with pytest.raises(HandshakeError, match="max_clients"):
        ZmqClient(remote.wished, SPEC, patience=QUICK)
    assert server.stats()["clients"] == 1


def test_a_client_that_says_nothing_is_forgotten_and_may_return(remote: House, eventually: Eventually) -> None:
    server = remote.serve(forget_after_s=1)
    client = remote.client(window=1)
    ask(client)
    eventually(lambda: server.stats()["clients"] == 0)
    ask(client)
    assert server.stats()["clients"] == 1


@pytest.mark.parametrize("patience", [Patience(resend_after_s=100), Patience(ping_interval_s=100, resend_after_s=0.2)])
def test_a_restarted_server_gets_hello_and_the_outstanding_requests(
    remote: House, patience: Patience, eventually: Eventually
) -> None:
    """By a ping as well as by a repeated request."""
    former = remote.serve(**NOBODY_WAITS)
    client = ZmqClient(remote.wished, SPEC, window=3, patience=patience)
    sent = {}
    for seed in range(2):  # of three: so they wait
        rows = random_rows(SPEC, 10, seed)
        sent[client.submit(rows)] = rows
    eventually(lambda: former.stats()["waiting_rows"] == 20)
    former.close()
    assert client.collect(0.05) is None
    client.set_window(2)  # the next server learns it, too
    following = remote.serve(**NOBODY_WAITS)
    while sent:
        answer = collected(client)
        assert np.array_equal(answer.logits, compute(SPEC, sent.pop(answer.ticket))[0])
    client.set_window(1)
    ask(client, seed=7)
    assert following.stats()["rows"] == 24
    client.close()


def test_nobody_there_is_said_in_time() -> None:
    with private_endpoint() as endpoint, pytest.raises(ServerGone, match="is it running"):
        ZmqClient(endpoint, SPEC, patience=Patience(give_up_after_s=0.3, ping_interval_s=0.1))
    with pytest.raises(HandshakeError, match="cannot connect"):
        ZmqClient("nonsense", SPEC)
