"""The batching policy: literal lists of events, and a state machine that tries to lose or repeat rows."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grove.inference_server.batching.policy import NO_WAKE_UP, Dispatch, Limits, Policy, Wait

US = 1000
DELAY, IDLE = 5000 * US, 100_000 * US


def limits(buckets: tuple[int, ...] = (64, 128, 256), share: int = 32) -> Limits:
    return Limits(buckets=buckets, max_delay_ns=DELAY, idle_after_ns=IDLE, min_share_rows=share)


def play(policy: Policy, events: list[tuple]) -> list:
    """Feed events (name, arguments...) and return what `decide` says after each ("decide", now)."""
    decisions = []
    for name, *arguments in events:
        result = getattr(policy, name)(*arguments)
        if name == "decide":
            decisions.append(result)
    return decisions


def joined(*clients: tuple[int, int]) -> Policy:
    policy = Policy(limits())
    for client, window in clients:
        policy.client_joined(client, window)
    return policy


CASES = {
    "nothing to do without rows": (
        [(1, 2)],
        [("lane_free", 0), ("decide", 0)],
        [NO_WAKE_UP],
    ),
    "nothing to do without a lane": (
        [(1, 1)],
        [("rows_arrived", 1, 300, 0, 0), ("decide", DELAY * 9)],
        [NO_WAKE_UP],
    ),
    "full leaves at once, the rest waits for the clock": (
        [(1, 2)],
        [("lane_free", 0), ("lane_free", 1), ("rows_arrived", 1, 300, 0, 7), ("decide", 7), ("decide", 7)],
        [Dispatch(1, 0, 256, 256, "full"), Wait(7 + DELAY)],
    ),
    "blocked by its window": (
        [(1, 2)],
        [
            ("lane_free", 0),
            ("rows_arrived", 1, 40, 0, 0),
            ("decide", 0),
            ("rows_arrived", 1, 40, 0, 9),
            ("decide", 9),
        ],
        [Wait(DELAY), Dispatch(0, 0, 80, 128, "all_blocked")],
    ),
    "blocked because it waits": (
        [(1, 2)],
        [("lane_free", 0), ("rows_arrived", 1, 40, 0, 0), ("client_blocked", 1), ("decide", 1)],
        [Dispatch(0, 0, 40, 64, "all_blocked")],
    ),
    "a client that blocks no longer is waited for": (
        [(1, 2)],
        [
            ("lane_free", 0),
            ("rows_arrived", 1, 40, 0, 0),
            ("client_blocked", 1),
            ("client_blocked", 1, False),
            ("decide", 1),
        ],
        [Wait(DELAY)],
    ),
    "a silent newcomer does not count before its first row": (
        [(1, 1), (2, 1)],
        [("lane_free", 0), ("rows_arrived", 1, 40, 0, 0), ("decide", 0)],
        [Dispatch(0, 0, 40, 64, "all_blocked")],
    ),
    "an answered client is waited for until the delay": (
        [(1, 1), (2, 1)],
        [
            ("rows_arrived", 1, 40, 0, 0),
            ("lane_free", 0),
            ("decide", 0),
            ("reply_delivered", 1, 10),
            ("lane_free", 0),
            ("rows_arrived", 2, 30, 0, 20),
            ("decide", 20),
            ("decide", 20 + DELAY),
        ],
        [Dispatch(0, 0, 40, 64, "all_blocked"), Wait(20 + DELAY), Dispatch(0, 0, 30, 64, "delay")],
    ),
    "an idle client is not waited for": (
        [(1, 1), (2, 1)],
        [
            ("rows_arrived", 1, 40, 0, 0),
            ("lane_free", 0),
            ("decide", 0),
            ("reply_delivered", 1, 10),
            ("window_changed", 1, 0),
            ("lane_free", 0),
            ("rows_arrived", 2, 30, 0, 20),
            ("decide", 20),
        ],
        [Dispatch(0, 0, 40, 64, "all_blocked"), Dispatch(0, 0, 30, 64, "all_blocked")],
    ),
    "a dead client stops counting at once, its rows are still computed": (
        [(1, 2), (2, 1)],
        [
            ("lane_free", 0),
            ("rows_arrived", 1, 10, 0, 0),
            ("rows_arrived", 2, 10, 0, 0),
            ("decide", 0),
            ("client_left", 1),
            ("decide", 1),
            ("reply_delivered", 1, 2),
        ],
        [Wait(DELAY), Dispatch(0, 0, 20, 64, "all_blocked")],
    ),
    "a lost connection stops counting, the next rows count again": (
        [(1, 2), (2, 1)],
        [
            ("rows_arrived", 1, 10, 0, 0),
            ("client_quiet", 1),
            ("rows_arrived", 2, 10, 0, 0),
            ("lane_free", 0),
            ("decide", 0),
            ("reply_delivered", 1, 1),
            ("rows_arrived", 1, 10, 0, 2),
            ("lane_free", 0),
            ("decide", 2),
        ],
        [Dispatch(0, 0, 20, 64, "all_blocked"), Wait(2 + DELAY)],
    ),
    "rows gather while all lanes are busy": (
        [(1, 3)],
        [
            ("rows_arrived", 1, 100, 0, 0),
            ("decide", 0),
            ("rows_arrived", 1, 100, 0, 1),
            ("decide", DELAY * 2),
            ("lane_free", 0),
            ("decide", DELAY * 2),
        ],
        [NO_WAKE_UP, NO_WAKE_UP, Dispatch(0, 0, 200, 256, "quarter_full")],
    ),
    "a quarter of a full batch is enough for a lane that is free": (
        [(1, 9)],
        [
            ("lane_free", 0),
            ("rows_arrived", 1, 63, 0, 0),
            ("decide", 0),
            ("rows_arrived", 1, 1, 0, 1),
            ("decide", 1),
        ],
        [Wait(DELAY), Dispatch(0, 0, 64, 64, "quarter_full")],
    ),
    "two lanes share evenly in whole buckets": (
        [(1, 1)],
        [("rows_arrived", 1, 130, 0, 0), ("lane_free", 0), ("lane_free", 1), ("decide", 0), ("decide", 0)],
        [Dispatch(1, 0, 128, 128, "all_blocked"), Dispatch(0, 0, 2, 64, "all_blocked")],
    ),
    "few rows are not shared": (
        [(1, 1)],
        [("rows_arrived", 1, 60, 0, 0), ("lane_free", 0), ("lane_free", 1), ("decide", 0), ("decide", 0)],
        [Dispatch(1, 0, 60, 64, "all_blocked"), NO_WAKE_UP],
    ),
    "more than one top bucket for two lanes is shared too": (
        [(1, 1)],
        [("rows_arrived", 1, 600, 0, 0), ("lane_free", 0), ("lane_free", 1), ("decide", 0), ("decide", 0)],
        [Dispatch(1, 0, 256, 256, "full"), Dispatch(0, 0, 256, 256, "full")],
    ),
    "draining sends everything off": (
        [(1, 9)],
        [("rows_arrived", 1, 60, 0, 0), ("lane_free", 0), ("decide", 0), ("drain",), ("decide", 1)],
        [Wait(DELAY), Dispatch(0, 0, 60, 64, "shutdown")],
    ),
    "one model a batch, oldest first": (
        [(1, 2)],
        [
            ("rows_arrived", 1, 20, 5, 0),
            ("rows_arrived", 1, 90, 3, 1),
            ("lane_free", 0),
            ("decide", 2),
            ("lane_free", 0),
            ("decide", 3),
        ],
        [Dispatch(0, 5, 20, 64, "all_blocked"), Dispatch(0, 3, 90, 128, "all_blocked")],
    ),
    "a withdrawn lane gets nothing": (
        [(1, 1)],
        [("lane_free", 0), ("lane_busy", 0), ("rows_arrived", 1, 90, 3, 1), ("decide", 3)],
        [NO_WAKE_UP],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_events(name: str) -> None:
    clients, events, expected = CASES[name]
    assert play(joined(*clients), events) == expected


def test_a_client_that_fell_silent_costs_one_delay_and_then_no_more() -> None:
    policy = joined((1, 1), (2, 1))
    for client in (1, 2):
        policy.rows_arrived(client, 8, 0, 0)
    policy.lane_free(0)
    assert policy.decide(0) == Dispatch(0, 0, 16, 64, "all_blocked")
    for client in (1, 2):
        policy.reply_delivered(client, 0)
    policy.lane_free(0)
    policy.rows_arrived(1, 8, 0, IDLE)  # client 2 says nothing more
    assert policy.decide(IDLE) == Wait(IDLE + DELAY)
    assert policy.decide(IDLE + DELAY) == Dispatch(0, 0, 8, 64, "delay")
    assert policy.live_clients == 1
    policy.reply_delivered(1, IDLE + DELAY)
    policy.lane_free(0)
    policy.rows_arrived(1, 8, 0, 2 * IDLE)
    assert policy.decide(2 * IDLE) == Dispatch(0, 0, 8, 64, "all_blocked")
    assert policy.reasons == {"full": 0, "all_blocked": 2, "quarter_full": 0, "delay": 1, "shutdown": 0}


def test_one_bucket_takes_everything() -> None:
    policy = Policy(limits(buckets=(96,)))
    policy.client_joined(1, 1)
    policy.rows_arrived(1, 100, 0, 0)
    policy.lane_free(0)
    policy.lane_free(1)
    assert policy.decide(0) == Dispatch(1, 0, 96, 96, "all_blocked")
    assert policy.decide(0) == Dispatch(0, 0, 4, 96, "all_blocked")


class PolicyMachine(RuleBasedStateMachine):
    """Any order of events: rows leave exactly once, oldest first, and never wait without a wake-up."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(limits(buckets=(4, 16, 32), share=4))
        self.now = 0
        self.waiting: dict[int, list[int]] = {}  # slot -> arrival times, one per row
        self.outstanding: dict[int, int] = {}
        self.free = [0, 1, 2]
        for lane in self.free:
            self.policy.lane_free(lane)
        self.busy: list[int] = []
        self.next_client = 0

    def decide(self) -> None:
        while not isinstance(decision := self.policy.decide(self.now), Wait):
            rows = self.waiting[decision.weights_id]
            assert 0 < decision.rows <= min(len(rows), 32)
            assert decision.rows <= decision.bucket
            assert decision.lane in self.free
            if decision.reason == "delay":
                assert self.now - rows[0] >= DELAY
            del rows[: decision.rows]
            self.free.remove(decision.lane)
            self.busy.append(decision.lane)
        oldest = min((rows[0] for rows in self.waiting.values() if rows), default=None)
        if oldest is None or not self.free:
            assert decision.until_ns is None
        else:  # rows and a lane: there is a wake-up, in time, and someone owes rows
            assert decision.until_ns == oldest + DELAY
            assert decision.until_ns > self.now
            assert all(len(rows) < 8 for rows in self.waiting.values())
            assert self.policy._owing > 0

    @rule(window=st.integers(1, 3))
    def join(self, window: int) -> None:
        self.policy.client_joined(self.next_client, window)
        self.outstanding[self.next_client] = 0
        self.next_client += 1

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data(), rows=st.integers(1, 80), slot=st.integers(0, 1))
    def arrive(self, data: st.DataObject, rows: int, slot: int) -> None:
        client = data.draw(st.sampled_from(sorted(self.outstanding)))
        self.policy.rows_arrived(client, rows, slot, self.now)
        self.outstanding[client] += 1
        self.waiting.setdefault(slot, []).extend([self.now] * rows)
        self.decide()

    @precondition(lambda self: any(self.outstanding.values()))
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(sorted(key for key, count in self.outstanding.items() if count)))
        self.policy.reply_delivered(client, self.now)
        self.outstanding[client] -= 1
        self.decide()

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data(), event=st.sampled_from(["blocked", "quiet", "left", "window"]), window=st.integers(0, 3))
    def change(self, data: st.DataObject, event: str, window: int) -> None:
        client = data.draw(st.sampled_from(sorted(self.outstanding)))
        if event == "blocked":
            self.policy.client_blocked(client, bool(window))
        elif event == "quiet":
            self.policy.client_quiet(client)
        elif event == "window":
            self.policy.window_changed(client, window)
        else:
            self.policy.client_left(client)
            del self.outstanding[client]
        self.decide()

    @precondition(lambda self: self.busy)
    @rule()
    def finish(self) -> None:
        lane = self.busy.pop(0)
        self.free.append(lane)
        self.policy.lane_free(lane)
        self.decide()

    @precondition(lambda self: self.free)
    @rule()
    def withdraw(self) -> None:
        lane = self.free.pop()
        self.busy.append(lane)
        self.policy.lane_busy(lane)

    @rule(step=st.integers(1, 3 * DELAY))
    def time_passes(self, step: int) -> None:
        self.now += step
        self.decide()

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.policy.waiting_rows == sum(map(len, self.waiting.values()))
        owing = sum(client.owes for client in self.policy._clients.values())
        assert self.policy._owing == owing

    def teardown(self) -> None:
        self.policy.drain()
        while self.policy.waiting_rows:
            self.decide()
            assert self.busy
            self.finish()


PolicyMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPolicyMachine = PolicyMachine.TestCase
