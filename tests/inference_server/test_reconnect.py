"""A client whose server goes and comes: it notices by the line, and says no more than it has to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from grove.common.errors import HandshakeError, ServerGone
from grove.inference_server import InferenceServer, Patience, ZmqClient, private_endpoint
from grove.inference_server.batching.batcher import Batcher
from tests.support.arithmetic_network import SPEC, ArithmeticBackend, compute, random_rows

Eventually = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(stack: ExitStack, endpoint: str) -> tuple[InferenceServer, str]:
    server = stack.enter_context(InferenceServer(SPEC, [ArithmeticBackend(SPEC)]))
    return server, server.bind(endpoint)


def ask(client: ZmqClient, seed: int = 0) -> None:
    rows = random_rows(SPEC, 5, seed)
    client.submit(rows)
    reply = client.collect(60)
    assert reply is not None
    assert np.array_equal(reply.logits, compute(SPEC, rows)[0])


def test_nobody_there_is_said_in_time() -> None:
    with private_endpoint() as endpoint, pytest.raises(ServerGone, match="is it running"):
        ZmqClient(endpoint, SPEC, patience=Patience(give_up_after_s=0.3, ping_interval_s=0.1))
    with pytest.raises(HandshakeError, match="cannot connect"):
        ZmqClient("nonsense", SPEC)


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
@pytest.mark.parametrize("ping_s", [60.0, 0.02])
def test_the_line_tells_of_a_server_that_ended_and_of_the_next_one(
    kind: str, ping_s: float, stack: ExitStack, eventually: Eventually
) -> None:
    """Neither a ping nor a repeat need help: the rows are answered although both would come after the time limit."""
    former, endpoint = serve(stack, "tcp://127.0.0.1:*" if kind == "tcp" else stack.enter_context(private_endpoint()))
    patience = Patience(resend_after_s=100, give_up_after_s=100, ping_interval_s=ping_s)
    client = ZmqClient(endpoint, SPEC, window=2, patience=patience)
    stack.callback(client.close)
    ask(client)
    assert client.connected
    former.park(60)
    sent = random_rows(SPEC, 9, 1)
    client.submit(sent)
    eventually(lambda: former.stats()["waiting_rows"] == 9)
    former.close()
    eventually(lambda: client.collect(0.05) is None and not client.connected)
    assert client.collect(0) is None
    following, _ = serve(stack, endpoint)
    reply = client.collect(60)
    assert reply is not None
    assert np.array_equal(reply.logits, compute(SPEC, sent)[0])
    assert client.connected
    assert client.server_epoch == following.epoch != former.epoch
    ask(client, 2)
    assert following.stats()["resends"] == 0
    assert following.stats()["rows"] == 14
    assert following.stats()["errors"] == {}


def test_few_releases_are_said_again_and_none_to_another_server(
    stack: ExitStack, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(Batcher, "release", lambda batcher, client, slot: told.append(slot))
    former, endpoint = serve(stack, stack.enter_context(private_endpoint()))
    client = ZmqClient(endpoint, SPEC, window=1)
    stack.callback(client.close)
    for slot in range(100, 140):
        client.release(slot)
    ask(client)
    client.rejoin("another")  # it is the same one after all
    ask(client, 1)
    eventually(lambda: len(told) == 56)
    assert told == [*range(100, 140), *range(124, 140)]
    former.close()
    following, _ = serve(stack, endpoint)
    ask(client, 2)
    ask(client, 3)
    assert client.server_epoch == following.epoch
    assert len(told) == 56
