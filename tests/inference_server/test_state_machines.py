"""Policy and batcher under any order of events: no row is answered twice, none is forgotten, none waits for ever."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grove.inference_server import ServerSettings
from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.pending_batches import Batch, PendingBatches
from grove.inference_server.batching.policy import Limits, Policy, Wait
from grove.inference_server.batching.request import ClientHandle, Request
from grove.inference_server.batching.results import Results
from tests.support.arithmetic_network import SPEC

LANES = 3
SLOTS = (0, 1)


def numbered(first: int, count: int) -> np.ndarray:
    """Return rows that carry their numbers."""
    rows = np.zeros((count, *SPEC.observation_shape), np.uint8)
    rows.reshape(count, -1)[:, :8] = np.arange(first, first + count, dtype=np.uint64)[:, None].view(np.uint8)
    return rows


def numbers_of(rows: np.ndarray) -> list[int]:
    flat = np.ascontiguousarray(rows.reshape(len(rows), -1)[:, :8])
    return [int(number) for number in flat.view(np.uint64)[:, 0]]


class RowsMachine(RuleBasedStateMachine):
    """Policy and pending batches together: rows with numbers leave once, oldest first, shared among free lanes."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(Limits(buckets=(4, 8, 16), max_delay_ns=50, idle_after_ns=500, min_share_rows=4))
        self.pending = PendingBatches(16, lambda: np.zeros((16, *SPEC.observation_shape), np.uint8))
        self.client = ClientHandle("client", SPEC, lambda request: None)
        self.clients = [0, 1]
        self.policy.client_joined(0, 3)
        self.policy.client_joined(1, 1)
        self.top = 16
        self.waiting: dict[int, list[tuple[int, int]]] = {slot: [] for slot in SLOTS}  # number and arrival of each row
        self.free: set[int] = set()
        self.now = self.next_row = self.next_request = 0

    @rule(client=st.integers(0, 1), count=st.integers(1, 40), slot=st.sampled_from(SLOTS), step=st.integers(0, 9))
    def arrive(self, client: int, count: int, slot: int, step: int) -> None:
        self.now += step
        numbers = range(self.next_row, self.next_row + count)
        self.next_row += count
        request = Request(self.client, numbers[0], count, None)
        self.waiting[slot] += [(number, self.now) for number in numbers]
        self.pending.add(request, numbered(numbers[0], count), slot)
        self.policy.rows_arrived(self.clients[client], count, slot, self.now)
        self.decide()

    @rule(lanes=st.sets(st.integers(0, LANES - 1)))
    def lanes_free(self, lanes: set[int]) -> None:
        for lane in lanes - self.free:
            self.policy.lane_free(lane)
        self.free |= lanes
        self.decide()

    @rule(lane=st.integers(0, LANES - 1))
    def lane_busy(self, lane: int) -> None:
        self.policy.lane_busy(lane)
        self.free.discard(lane)
        self.decide()

    @rule(rows=st.sampled_from([4, 8]))
    def limit_rows(self, rows: int) -> None:
        """The device has no more room: what waits already is cut when it leaves."""
        if rows < self.top:
            self.top = rows
            self.policy.limit_rows(rows)
            self.pending.limit_rows(rows)
            self.decide()

    @rule(client=st.integers(0, 1), event=st.sampled_from(["delivered", "quiet", "blocked"]))
    def client_says(self, client: int, event: str) -> None:
        if event == "delivered":
            self.policy.reply_delivered(self.clients[client], self.now)
        elif event == "quiet":
            self.policy.client_quiet(self.clients[client])
        else:
            self.policy.client_blocked(self.clients[client])
        self.decide()

    @rule(client=st.integers(0, 1), window=st.integers(0, 3))
    def client_left(self, client: int, window: int) -> None:
        """A client goes, its rows stay, and another one comes."""
        self.policy.client_left(self.clients[client])
        self.decide()
        self.clients[client] = max(self.clients) + 1
        self.policy.client_joined(self.clients[client], window)
        assert self.policy.live_clients <= len(self.clients)

    @rule(step=st.integers(1, 120))
    def time_passes(self, step: int) -> None:
        self.now += step
        self.decide()

    def decide(self) -> None:
        self.pending.reserve(LANES)
        while not isinstance(decision := self.policy.decide(self.now), Wait):
            self.free.remove(decision.lane)
            assert decision.rows <= decision.bucket <= self.top
            self.leave(self.pending.take(decision.weights_id, decision.rows))
        oldest = min((rows[0][1] for rows in self.waiting.values() if rows), default=None)
        if self.free and oldest is not None:
            assert decision.until_ns is not None, "rows and a lane wait, and nobody wakes them"
            assert self.now < decision.until_ns <= oldest + 50

    def leave(self, batch: Batch) -> None:
        """The rows of a batch are the oldest of their slot, and each belongs to the request it came with."""
        numbers = numbers_of(batch.buffer[: batch.rows])
        assert numbers == [number for number, _ in self.waiting[batch.weights_id][: batch.rows]]
        del self.waiting[batch.weights_id][: batch.rows]
        theirs = [part.request.id + part.start + row for part in batch.parts for row in range(part.rows)]
        assert theirs == numbers
        assert [part.at for part in batch.parts] == list(
            np.cumsum([0, *(part.rows for part in batch.parts)])[:-1]
        )  # fmt: skip
        self.pending.recycle(batch)

    def teardown(self) -> None:
        self.policy.drain()
        while any(self.waiting.values()):
            self.lanes_free({0, 1, 2})
        assert not self.policy.waiting_rows


class BatcherMachine(RuleBasedStateMachine):
    """Rows with numbers go in; each leaves once, oldest first, and its answer reaches the request it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        # Nothing here waits for the clock: rows leave because they fill a batch, or because nothing more will come.
        limits = ServerSettings(max_delay_us=60_000_000, idle_after_ms=3_600_000, min_share_rows=4)
        self.memory = True
        self.batcher = Batcher(SPEC, limits, (4, 8, 16), LANES, self.new_buffer)
        self.batcher.move_slot("second", SLOTS[1])
        self.clients: list[ClientHandle] = []
        self.waiting: dict[int, list[int]] = {slot: [] for slot in SLOTS}
        # request -> its rows, and which of them failed
        self.due: dict[int, tuple[ClientHandle, list[int], set[int]]] = {}
        self.running: list[Batch] = []
        self.parked = 0
        self.next_row = self.next_request = 0

    def new_buffer(self) -> np.ndarray:
        if not self.memory:
            raise MemoryError
        return np.zeros((16, *SPEC.observation_shape), np.uint8)

    @rule(there_is=st.booleans())
    def memory_comes_and_goes(self, there_is: bool) -> None:
        self.memory = there_is

    @rule(window=st.integers(1, 3))
    def join(self, window: int) -> None:
        client = ClientHandle("client", SPEC, self.answer)
        self.batcher.join(client, window)
        self.clients.append(client)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), count=st.integers(1, 40), slot=st.sampled_from(SLOTS))
    def submit(self, data: st.DataObject, count: int, slot: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        numbers = list(range(self.next_row, self.next_row + count))
        request = Request(client, self.next_request, count, None)
        try:
            self.batcher.submit(request, numbered(numbers[0], count), slot)
        except MemoryError:
            assert not self.memory
            return
        self.next_row += count
        self.next_request += 1
        self.due[request.id] = client, numbers, set()
        self.waiting[slot] += numbers

    def answer(self, request: Request) -> None:
        client, numbers, failed = self.due.pop(request.id)  # a second answer has nothing to pop
        assert client is request.client
        assert client in self.clients
        reply = request.reply()
        good = [index for index, number in enumerate(numbers) if number not in failed]
        assert list(reply.failed) == [index for index, number in enumerate(numbers) if number in failed]
        assert [int(value) for value in reply.logits[good, 0]] == [numbers[index] for index in good]

    @precondition(lambda self: len(self.running) < LANES)
    @rule()
    def run_lane(self) -> None:
        batch = self.batcher.next_batch(self.idle_lane(), 0)
        if batch is None:
            return
        assert not self.parked
        waiting = self.waiting[batch.weights_id]
        assert numbers_of(batch.buffer[: batch.rows]) == waiting[: batch.rows]
        del waiting[: batch.rows]
        self.running.append(batch)

    def idle_lane(self) -> int:
        return min(set(range(LANES)) - {batch.lane for batch in self.running})

    @precondition(lambda self: self.running)
    @rule(data=st.data(), rows_fail=st.lists(st.booleans(), min_size=1, max_size=16))
    def end_batch(self, data: st.DataObject, rows_fail: list[bool]) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        numbers = numbers_of(batch.buffer[: batch.rows])
        bad = [row for row in range(batch.rows) if rows_fail[row % len(rows_fail)]]
        for _, theirs, failed in self.due.values():
            failed.update(set(theirs) & {numbers[row] for row in bad})
        self.batcher.complete(batch, self.results(batch, bad))

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), event=st.sampled_from(["quiet", "window", "leave"]), window=st.integers(0, 3))
    def change(self, data: st.DataObject, event: str, window: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if event == "quiet":
            self.batcher.quiet(client)
        elif event == "window":
            self.batcher.set_window(client, window)
        else:
            self.clients.remove(client)
            self.batcher.leave(client)
            self.due = {number: due for number, due in self.due.items() if due[0] is not client}

    @rule()
    def park(self) -> None:
        assert self.batcher.park(0) == (not self.running)
        self.parked += 1

    @precondition(lambda self: self.parked)
    @rule()
    def unpark(self) -> None:
        self.batcher.unpark()
        self.parked -= 1

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.batcher.snapshot()["waiting_rows"] == sum(map(len, self.waiting.values()))

    def teardown(self) -> None:
        self.memory = True
        while self.parked:
            self.unpark()
        self.batcher.drain(0)
        while any(self.waiting.values()) or self.running:
            while len(self.running) < LANES and any(self.waiting.values()):
                before = len(self.running)
                self.run_lane()
                assert len(self.running) > before, "rows wait and a lane is free"
            batch = self.running.pop()
            self.batcher.complete(batch, self.results(batch))
        assert not self.due
        assert self.batcher.drain(0)

    @staticmethod
    def results(batch: Batch, failed: Sequence[int] = ()) -> Results:
        logits = np.zeros((batch.rows, SPEC.num_actions), np.float32)
        logits[:, 0] = numbers_of(batch.buffer[: batch.rows])
        values = np.zeros((batch.rows, 1), np.float32)
        return Results(logits, values, "v", failed=tuple(failed), error="it had to" if failed else "")


BatcherMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
RowsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRowsMachine = RowsMachine.TestCase
TestBatcherMachine = BatcherMachine.TestCase
