"""The client under any order of events: no request is answered twice, none is forgotten, and the server is told all."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
import zmq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from grove.common.errors import MessageError
from grove.inference_server import Answer, Patience, ZmqClient, private_endpoint
from grove.inference_server.channels import protocol
from tests.support.arithmetic_network import SPEC, compute, random_rows


class ClientMachine(RuleBasedStateMachine):
    """A real client against a server that loses, repeats and reorders answers and is restarted at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.client: ZmqClient
        self.rows: dict[int, np.ndarray] = {}  # requests the client still owes an answer to
        self.asked: dict[int, tuple[bytes, np.ndarray]] = {}  # at the server, not answered
        self.answered: list[tuple[bytes, int, np.ndarray]] = []
        self.known = False
        self.next_seed = 0
        self.promised = self.window = 3  # as the client promised, and as the server knows

    @initialize()
    def connect(self) -> None:
        endpoint = self.stack.enter_context(private_endpoint())
        context = self.stack.enter_context(zmq.Context())
        self.router = self.stack.enter_context(context.socket(zmq.ROUTER))
        self.router.setsockopt(zmq.LINGER, 0)
        self.router.bind(endpoint)
        endpoint = self.router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        patience = Patience(resend_after_s=0.02, give_up_after_s=60, ping_interval_s=0.02)
        made: list[ZmqClient] = []
        thread = threading.Thread(target=lambda: made.append(ZmqClient(endpoint, SPEC, window=3, patience=patience)))
        thread.start()
        while thread.is_alive():
            self.serve()
        self.client = made[0]

    # The server's side

    @rule()
    def serve(self) -> None:
        """Take in what the client sent."""
        while self.router.poll(5):
            routing, *frames = self.router.recv_multipart()
            match protocol.decode(frames, SPEC):
                case protocol.Hello():
                    self.known, self.window = True, 3
                    self.say(routing, protocol.Ready())
                case protocol.Bye():
                    self.known = False
                case _ if not self.known:
                    self.say(routing, protocol.Unknown())
                case protocol.Ping():
                    self.say(routing, protocol.Pong())
                case protocol.Evaluate(request, _, rows, _):
                    self.asked[request] = routing, rows
                case protocol.Window(requests):
                    self.window = requests

    def say(self, routing: bytes, message: protocol.Message) -> None:
        self.router.send_multipart([routing, *protocol.encode(message)])

    def reply(self, routing: bytes, request: int, rows: np.ndarray) -> None:
        self.say(routing, protocol.Answered(Answer(request, *compute(SPEC, rows), "v")))

    @rule(
        picks=st.lists(st.integers(0, 5), min_size=3, max_size=8),
        fates=st.lists(
            st.sampled_from(["answered", "answered twice", "lost", "refused", "kept"]), min_size=8, max_size=8
        ),
    )
    def traffic(self, picks: list[int], fates: list[str]) -> None:
        """Ask, and answer any of the requests in any order."""
        for pick, fate in zip(picks, fates, strict=False):
            self.submit(pick + 1)
            self.serve()
            if fate != "kept":
                self.answer(pick, fate)
            self.collect(0)

    def answer(self, pick: int, fate: str) -> None:
        if not self.asked:
            return
        request = sorted(self.asked)[pick % len(self.asked)]
        routing, rows = self.asked.pop(request)
        if fate == "refused":
            self.say(routing, protocol.Failed(request, "no"))
        elif fate != "lost":
            for _ in range(2 if fate == "answered twice" else 1):
                self.reply(routing, request, rows)
            self.answered.append((routing, request, rows))

    @rule(pick=st.integers(0, 99))
    def answer_again(self, pick: int) -> None:
        """Answer an old request once more."""
        if self.answered:
            self.reply(*self.answered[pick % len(self.answered)])

    @rule()
    def restart(self) -> None:
        """Forget everything: the next message is that of a stranger."""
        self.asked.clear()
        self.known = False

    # The client's side

    @rule(count=st.integers(1, 9))
    def submit(self, count: int) -> None:
        if len(self.rows) == 3:
            with pytest.raises(MessageError, match="window"):
                self.client.submit(random_rows(SPEC, 1, 0))
            return
        rows = random_rows(SPEC, count, self.next_seed)
        self.next_seed += 1
        ticket = self.client.submit(rows)
        assert ticket not in self.rows
        self.rows[ticket] = rows

    @rule(requests=st.integers(0, 5))
    def set_window(self, requests: int) -> None:
        self.client.set_window(requests)
        self.promised = min(requests, 3)

    @rule(seconds=st.sampled_from([0, 0.01, 0.03]))
    def collect(self, seconds: float) -> None:
        try:
            answer = self.client.collect(seconds)
        except MessageError as error:
            del self.rows[int(str(error).split("request ")[1].split(":")[0])]
            return
        if answer is not None:
            rows = self.rows.pop(answer.ticket)  # nothing is answered twice
            assert np.array_equal(answer.logits, compute(SPEC, rows)[0])

    def teardown(self) -> None:
        try:
            self.answer_all()
            self.submit(1)  # so that a server that was started again is noticed
            self.answer_all()
            self.serve()
            assert self.client.collect(0) is None
            assert self.window == self.promised
        finally:
            if hasattr(self, "client"):
                self.client.close()
            self.stack.close()

    def answer_all(self) -> None:
        deadline = time.monotonic() + 60
        while self.rows:
            assert time.monotonic() < deadline, "a request was forgotten"
            self.serve()
            for request, (routing, rows) in self.asked.items():
                self.reply(routing, request, rows)
            self.asked.clear()
            self.collect(0.03)


ClientMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestClientMachine = ClientMachine.TestCase
