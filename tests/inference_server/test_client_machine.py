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
from grove.inference_server import Patience, Reply, ZmqClient, private_endpoint
from grove.inference_server.channels import protocol
from tests.support.arithmetic_network import SPEC, compute, random_rows


class ClientMachine(RuleBasedStateMachine):
    """A real client against a server that loses, repeats and reorders answers and is restarted at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.client: ZmqClient
        self.rows: dict[int, np.ndarray] = {}  # requests the client still owes an answer to
        self.asked: dict[int, tuple[bytes, protocol.Header, np.ndarray]] = {}  # at the server, not answered
        self.answered: list[tuple[bytes, protocol.Header, np.ndarray]] = []
        self.known = False
        self.life = 0
        self.next_seed = 0
        self.promised = self.window = 3  # as the client promised, and as the server knows
        self.released: set[int] = set()  # said by the client to this life of the server
        self.told: set[int] = set()  # heard by this life of the server

    @initialize()
    def connect(self) -> None:
        endpoint = self.stack.enter_context(private_endpoint())
        self.context = self.stack.enter_context(zmq.Context())
        self.router = self.stack.enter_context(self.context.socket(zmq.ROUTER))
        self.router.setsockopt(zmq.LINGER, 0)
        self.router.bind(endpoint)
        endpoint = self.router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        patience = Patience(resend_after_s=0.02, give_up_after_s=60, ping_interval_s=0.02)
        made: list[ZmqClient] = []
        thread = threading.Thread(
            target=lambda: made.append(ZmqClient(endpoint, SPEC, window=3, patience=patience))
        )  # fmt: skip
        thread.start()
        while thread.is_alive():
            self.serve()
        self.client = made[0]

    # The server's side

    @rule()
    def serve(self) -> None:
        """Take in what the client sent."""
        while self.router.poll(5):
            routing, first, *frames = self.router.recv_multipart()
            header = protocol.unpack_header(first)
            if header.kind == protocol.HELLO:
                self.known, self.window = True, 3
                self.say(routing, header, protocol.READY, self.ready())
            elif header.kind != protocol.BYE and not self.known:
                self.say(routing, header, protocol.UNKNOWN)
            elif header.kind == protocol.PING:
                self.say(routing, header, protocol.PONG)
            elif header.kind == protocol.ROWS:
                rows = protocol.rows_of(header, frames, SPEC, 64)
                self.asked[header.request] = routing, header, rows
            elif header.kind == protocol.WINDOW:
                self.window = header.rows
            elif header.kind == protocol.RELEASE:
                self.told.add(header.slot)

    def ready(self) -> bytes:
        fields = {"server_epoch": str(self.life), "model_version": "v", "slots": {"default": 0}}
        return bytes(protocol.msgpack.packb(fields))

    def say(self, routing: bytes, header: protocol.Header, kind: int, *frames: bytes) -> None:
        answer = protocol.pack_header(kind, (header.client, header.epoch), header.request, rows=header.rows)
        self.router.send_multipart([routing, answer, *frames])

    def reply(self, routing: bytes, header: protocol.Header, rows: np.ndarray) -> None:
        logits, values = compute(SPEC, rows)
        reply = Reply(header.request, logits, values, "v", np.zeros(0, np.int32), len(rows), 0, 0)
        self.say(routing, header, protocol.REPLY, protocol.pack_reply(reply), logits.tobytes(), values.tobytes())

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
        number = sorted(self.asked)[pick % len(self.asked)]
        asked = self.asked.pop(number)
        if fate == "refused":
            self.say(asked[0], asked[1], protocol.ERROR, b"no")
        elif fate != "lost":
            for _ in range(2 if fate == "answered twice" else 1):
                self.reply(*asked)
            self.answered.append(asked)

    @rule(pick=st.integers(0, 99))
    def answer_again(self, pick: int) -> None:
        """Answer an old request once more."""
        if self.answered:
            self.reply(*self.answered[pick % len(self.answered)])

    @rule(pick=st.integers(0, 5))
    def answer_a_former_life(self, pick: int) -> None:
        """Answer what a former client asked under the same number: other rows."""
        self.serve()
        if self.asked:
            routing, header, rows = self.asked[sorted(self.asked)[pick % len(self.asked)]]
            self.reply(routing, header._replace(epoch=header.epoch + 1), rows + 1)

    @rule()
    def restart(self) -> None:
        """Forget everything: the next message is that of a stranger."""
        self.asked.clear()
        self.released.clear()
        self.told.clear()
        self.known = False
        self.life += 1

    # The client's side

    @rule(count=st.integers(1, 9))
    def submit(self, count: int) -> None:
        if len(self.rows) == 3:
            with pytest.raises(MessageError, match="window"):
                self.client.submit(random_rows(SPEC, 1, 0))
            return
        rows = random_rows(SPEC, count, self.next_seed)
        self.next_seed += 1
        number = self.client.submit(rows)
        assert number not in self.rows
        self.rows[number] = rows

    @rule(requests=st.integers(0, 5))
    def set_window(self, requests: int) -> None:
        self.client.set_window(requests)
        self.promised = min(requests, 3)

    @rule(slot=st.integers(64, 99))
    def release(self, slot: int) -> None:
        self.client.release(slot)
        if self.known and self.client.server_epoch == str(self.life):
            self.released.add(slot)

    @rule(seconds=st.sampled_from([0, 0.01, 0.03]))
    def collect(self, seconds: float) -> None:
        try:
            reply = self.client.collect(seconds)
        except MessageError as error:
            del self.rows[int(str(error).split("request ")[1].split(":")[0])]
            return
        if reply is not None:
            rows = self.rows.pop(reply.request)  # nothing is answered twice
            assert np.array_equal(reply.logits, compute(SPEC, rows)[0])

    def teardown(self) -> None:
        try:
            self.answer_all()
            self.submit(1)  # so that a server that was started again is noticed
            self.answer_all()
            self.serve()
            assert self.client.collect(0) is None
            assert self.window == self.promised
            assert self.released <= self.told
        finally:
            if hasattr(self, "client"):
                self.client.close()
            self.stack.close()

    def answer_all(self) -> None:
        deadline = time.monotonic() + 60
        while self.rows:
            assert time.monotonic() < deadline, "a request was forgotten"
            self.serve()
            for asked in self.asked.values():
                self.reply(*asked)
            self.asked.clear()
            self.collect(0.03)


ClientMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestClientMachine = ClientMachine.TestCase
