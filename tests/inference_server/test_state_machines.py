"""Policy and batcher under any order of events: no row is answered twice, none is forgotten, none waits for ever."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grove.inference_server import Answer, ServerSettings
from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.pending_batches import Batch, PendingBatches
from grove.inference_server.batching.policy import Limits, Policy, Wait
from grove.inference_server.batching.request import ClientHandle, Request
from tests.support.arithmetic_network import SPEC

LANES = 3
DELAY = 50
MODELS = ("default", "second")


def numbered(first: int, count: int) -> np.ndarray:
    """Return rows that carry their numbers."""
    rows = np.zeros((count, *SPEC.observation_shape), np.uint8)
    rows.reshape(count, -1)[:, :8] = np.arange(first, first + count, dtype=np.uint64)[:, None].view(np.uint8)
    return rows


def numbers_of(batch: Batch) -> list[int]:
    flat = np.ascontiguousarray(batch.buffer[: batch.rows].reshape(batch.rows, -1)[:, :8])
    return [int(number) for number in flat.view(np.uint64)[:, 0]]


class RowsMachine(RuleBasedStateMachine):
    """Policy and pending batches: rows with numbers leave once, oldest first, and never wait without a wake-up."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(Limits(buckets=(4, 8, 16), max_delay_ns=DELAY, idle_after_ns=500, min_share_rows=4))
        self.pending = PendingBatches(16, lambda: np.zeros((16, *SPEC.observation_shape), np.uint8))
        self.client = ClientHandle(lambda answer: None)
        self.outstanding = {0: 0, 1: 0}  # of each client
        self.policy.client_joined(0, 3)
        self.policy.client_joined(1, 1)
        self.top = 16
        self.waiting: dict[int, list[tuple[int, int]]] = {0: [], 1: []}  # weights: number and arrival of each row
        self.free: set[int] = set()
        self.now = self.next_row = 0

    @rule(data=st.data(), count=st.integers(1, 40), weights=st.integers(0, 1), step=st.integers(0, 9))
    def arrive(self, data: st.DataObject, count: int, weights: int, step: int) -> None:
        self.now += step
        client = data.draw(st.sampled_from(sorted(self.outstanding)))
        request = Request(self.client, self.next_row, count, None)
        request.arrived_ns = self.now
        self.waiting[weights] += [(number, self.now) for number in range(self.next_row, self.next_row + count)]
        self.pending.add(request, numbered(self.next_row, count), weights)
        self.next_row += count
        self.policy.rows_arrived(client, self.now)
        self.outstanding[client] += 1
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

    @precondition(lambda self: any(self.outstanding.values()))
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(sorted(key for key, count in self.outstanding.items() if count)))
        self.policy.reply_delivered(client, self.now)
        self.outstanding[client] -= 1
        self.decide()

    @rule(data=st.data(), event=st.sampled_from(["blocked", "left", "window"]), window=st.integers(0, 3))
    def change(self, data: st.DataObject, event: str, window: int) -> None:
        """A client blocks, promises something else, or goes: then its rows stay, and another one comes."""
        client = data.draw(st.sampled_from(sorted(self.outstanding)))
        if event == "blocked":
            self.policy.client_blocked(client, bool(window))
        elif event == "window":
            self.policy.window_changed(client, window)
        else:
            self.policy.client_left(client)
            del self.outstanding[client]
            self.outstanding[client + 2] = 0
            self.policy.client_joined(client + 2, window)
        self.decide()
        assert self.policy.live_clients <= len(self.outstanding)

    @rule(step=st.integers(1, 120))
    def time_passes(self, step: int) -> None:
        self.now += step
        self.decide()

    def decide(self) -> None:
        self.pending.reserve(LANES)
        while not isinstance(decision := self.policy.decide(self.pending.queues(), self.now), Wait):
            self.free.remove(decision.lane)
            assert 0 < decision.rows <= decision.bucket <= self.top
            if decision.reason == "delay":
                assert self.now - self.waiting[decision.weights][0][1] >= DELAY
            self.leave(self.pending.take(decision.weights, decision.rows))
        oldest = min((rows[0][1] for rows in self.waiting.values() if rows), default=None)
        if self.free and oldest is not None:
            assert decision.until_ns == oldest + DELAY > self.now, "rows and a lane wait, and nobody wakes them in time"
            assert all(len(rows) < max(self.top // 4, 4) for rows in self.waiting.values())

    def leave(self, batch: Batch) -> None:
        """The rows of a batch are the oldest for its weights, and each belongs to the request it came with."""
        numbers = numbers_of(batch)
        assert numbers == [number for number, _ in self.waiting[batch.weights][: batch.rows]]
        del self.waiting[batch.weights][: batch.rows]
        assert numbers == [part.request.ticket + part.start + row for part in batch.parts for row in range(part.rows)]
        assert [part.at for part in batch.parts] == [0, *np.cumsum([part.rows for part in batch.parts])[:-1]]
        self.pending.recycle(batch)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.pending.rows == sum(map(len, self.waiting.values()))

    def teardown(self) -> None:
        self.policy.drain()
        while any(self.waiting.values()):
            self.lanes_free({0, 1, 2})
        assert not self.pending.rows


class BatcherMachine(RuleBasedStateMachine):
    """Rows with numbers go in; each leaves once, oldest first, and its answer reaches the request it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        # Nothing here waits for the clock: rows leave because they fill a batch, or because nothing more will come.
        limits = ServerSettings(max_delay_us=60_000_000, idle_after_ms=3_600_000, min_share_rows=4)
        self.memory = True
        self.batcher = Batcher(SPEC, limits, (4, 8, 16), LANES, self.new_buffer)
        self.weights = {"default": 0, "second": 1}
        self.batcher.serve("second", 1)
        self.used = {0, 1}
        self.clients: list[ClientHandle] = []
        self.waiting: dict[int, list[int]] = {0: [], 1: []}  # weights: numbers of the rows
        # ticket: whose rows, which failed, weights
        self.due: dict[int, tuple[ClientHandle, list[int], set[int], int]] = {}
        self.running: list[Batch] = []
        self.next_row = self.next_ticket = 0

    def new_buffer(self) -> np.ndarray:
        if not self.memory:
            raise MemoryError
        return np.zeros((16, *SPEC.observation_shape), np.uint8)

    @rule(there_is=st.booleans())
    def memory_comes_and_goes(self, there_is: bool) -> None:
        self.memory = there_is

    @rule(window=st.integers(1, 3))
    def join(self, window: int) -> None:
        client = ClientHandle(self.answer)
        self.batcher.join(client, window)
        self.clients.append(client)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), count=st.integers(1, 40), model=st.sampled_from(MODELS))
    def submit(self, data: st.DataObject, count: int, model: str) -> None:
        client = data.draw(st.sampled_from(self.clients))
        numbers = list(range(self.next_row, self.next_row + count))
        request = Request(client, self.next_ticket, count, None)
        try:
            self.batcher.submit(request, numbered(numbers[0], count), model)
        except MemoryError:
            assert not self.memory
            return
        self.next_row += count
        self.next_ticket += 1
        self.due[request.ticket] = client, numbers, set(), self.weights[model]
        self.waiting[self.weights[model]] += numbers

    def answer(self, answer: Answer) -> None:
        client, numbers, failed, weights = self.due.pop(answer.ticket)  # a second answer has nothing to pop
        assert client in self.clients
        assert answer.version == str(weights)
        good = [index for index, number in enumerate(numbers) if number not in failed]
        assert list(answer.failed) == [index for index, number in enumerate(numbers) if number in failed]
        assert [int(value) for value in answer.logits[good, 0]] == [numbers[index] for index in good]

    @precondition(lambda self: len(self.running) < LANES)
    @rule()
    def run_lane(self) -> None:
        lane = min(set(range(LANES)) - {batch.lane for batch in self.running})
        batch = self.batcher.next_batch(lane, 0)
        if batch is not None:
            waiting = self.waiting[batch.weights]
            assert numbers_of(batch) == waiting[: batch.rows]
            del waiting[: batch.rows]
            self.running.append(batch)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), rows_fail=st.lists(st.booleans(), min_size=1, max_size=16))
    def end_batch(self, data: st.DataObject, rows_fail: list[bool]) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        batch.failed = tuple(row for row in range(batch.rows) if rows_fail[row % len(rows_fail)])
        numbers = numbers_of(batch)
        for _, theirs, failed, _ in self.due.values():
            failed.update(set(theirs) & {numbers[row] for row in batch.failed})
        self.complete(batch)

    def complete(self, batch: Batch) -> None:
        logits = np.zeros((batch.rows, SPEC.num_actions), np.float32)
        logits[:, 0] = numbers_of(batch)
        batch.version = str(batch.weights)
        self.batcher.complete(batch, logits, np.zeros((batch.rows, 1), np.float32))

    @rule(model=st.sampled_from(MODELS))
    def swap(self, model: str) -> None:
        """New weights take over: rows that wait keep theirs, and former ones are given up when none is left."""
        self.weights[model] = max(self.waiting) + 1
        self.waiting[self.weights[model]] = []
        self.used.add(self.weights[model])
        self.batcher.serve(model, self.weights[model])
        self.used = {weights for weights in self.used if self.batcher.uses(weights)}

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), leaves=st.booleans(), window=st.integers(0, 3))
    def change(self, data: st.DataObject, leaves: bool, window: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if not leaves:
            self.batcher.set_window(client, window)
            return
        self.clients.remove(client)
        self.batcher.leave(client)
        self.due = {number: due for number, due in self.due.items() if due[0] is not client}

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.batcher.snapshot()["waiting_rows"] == sum(map(len, self.waiting.values()))
        needed = {weights for weights, rows in self.waiting.items() if rows}
        assert needed | {batch.weights for batch in self.running} | set(self.weights.values()) <= self.used

    def teardown(self) -> None:
        self.memory = True
        self.batcher.drain(0)
        while any(self.waiting.values()) or self.running:
            while len(self.running) < LANES and any(self.waiting.values()):
                before = len(self.running)
                self.run_lane()
                assert len(self.running) > before, "rows wait and a lane is free"
            self.complete(self.running.pop())
        assert not self.due
        assert self.batcher.drain(0)
        assert {weights for weights in self.used if self.batcher.uses(weights)} == set(self.weights.values())


BatcherMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
RowsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRowsMachine = RowsMachine.TestCase
TestBatcherMachine = BatcherMachine.TestCase
