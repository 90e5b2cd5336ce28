"""Hostile clients: whatever they send, hold or leave, others are served and memory stays bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from arithmetic_network import SPEC, ArithmeticBackend, compute, random_rows

from bench import hostile
from inference_server import InferenceServer, Patience, ServerSettings, ZmqClient, private_endpoint, wire

KNOWN = {
    *(f"bad_{kind}" for kind in ("header", "kind", "handshake", *wire.KIND_NAMES.values())),
    *("refused_hello", "unroutable", "unsendable", "unread"),
}
"""Causes by which what a stranger does may be counted."""
QUICK = Patience(resend_after_s=0.5, give_up_after_s=20, ping_interval_s=0.2)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(stack: ExitStack, endpoint: str = "tcp://127.0.0.1:*", **settings: int) -> tuple[InferenceServer, str]:
    server = stack.enter_context(InferenceServer(SPEC, [ArithmeticBackend(SPEC)], ServerSettings(**settings)))
    return server, server.bind(endpoint)


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
                reply = self._client.collect(20)
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
    server, endpoint = serve(stack, *([stack.enter_context(private_endpoint())] if transport == "ipc" else []))
    honest = Honest(endpoint)
    stack.callback(honest.close)
    with hostile.Attacker(endpoint, SPEC) as attacker:
        for kind in hostile.MESSAGES:
            for _ in range(5):
                attacker.burst(kind, 100)
            before = honest.answered
            while honest.answered < before + 2:
                assert honest.fault is None
                time.sleep(0.005)
        for _ in range(3):
            attacker.burst("oversized", 1)
    errors = server.stats()["errors"]
    for cause in ("bad_header", "bad_rows", "bad_hello", "bad_kind"):
        assert errors[cause] > 100
    assert set(errors) <= KNOWN, errors  # none is a fault of the server's own
