"""The batching policy on literal lists of events; test_state_machines.py tries any order of them."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from grove.inference_server.batching.policy import NO_WAKE_UP, REASONS, Dispatch, Limits, Policy, Wait

DELAY, IDLE = 5_000_000, 100_000_000


class Waiting(NamedTuple):
    """Rows that wait for one set of weights."""

    rows: int
    oldest_ns: int = 0
    weights: int = 0
    oldest_rows: int = 1


def made(*windows: int, buckets: tuple[int, ...] = (64, 128, 256)) -> Policy:
    """A policy with clients 1, 2, ... that promised these windows."""
    policy = Policy(Limits(buckets=buckets, max_delay_ns=DELAY, idle_after_ns=IDLE, min_share_rows=32))
    for client, window in enumerate(windows, 1):
        policy.client_joined(client, window)
    return policy


def sent(rows: int, bucket: int, reason: str, lane: int = 0) -> Dispatch:
    return Dispatch(lane, 0, rows, bucket, reason)


LATER = Wait(DELAY)
CASES = {
    "nothing to do without rows": ((2,), [("lane_free", 0), (0, 0, NO_WAKE_UP)]),
    "nothing to do without a lane": ((1,), [("rows_arrived", 1, 0), (300, 9 * DELAY, NO_WAKE_UP)]),
    "full leaves at once, the rest waits for the clock": (
        (2,),
        [
            ("lane_free", 0), ("lane_free", 1), ("rows_arrived", 1, 0), (300, 0, sent(256, 256, "full", 1)),
            (44, 0, LATER),
        ],
    ),
    "blocked by its window": (
        (2,),
        [
            ("lane_free", 0), ("rows_arrived", 1, 0), (40, 0, LATER), ("rows_arrived", 1, 9),
            (80, 9, sent(80, 128, "all_blocked")),
        ],
    ),
    "blocked because it waits": (
        (2,),
        [("lane_free", 0), ("rows_arrived", 1, 0), ("client_blocked", 1), (40, 1, sent(40, 64, "all_blocked"))],
    ),
    "a client that blocks no longer is waited for": (
        (2,),
        [("lane_free", 0), ("rows_arrived", 1, 0), ("client_blocked", 1), ("client_blocked", 1, False), (40, 1, LATER)],
    ),
    "a silent newcomer does not count before its first row": (
        (1, 1),
        [("lane_free", 0), ("rows_arrived", 1, 0), (40, 0, sent(40, 64, "all_blocked"))],
    ),
    "an answered client is waited for until the delay": (
        (1, 1),
        [
            ("rows_arrived", 1, 0), ("reply_delivered", 1, 0), ("lane_free", 0), ("rows_arrived", 2, 0),
            (30, 0, LATER), (30, DELAY, sent(30, 64, "delay")),
        ],
    ),
    "an idle client is not waited for": (
        (1, 1),
        [
            ("rows_arrived", 1, 0), ("reply_delivered", 1, 0), ("window_changed", 1, 0), ("lane_free", 0),
            ("rows_arrived", 2, 0), (30, 0, sent(30, 64, "all_blocked")),
        ],
    ),
    "a client that left stops counting at once, its rows are still computed": (
        (2, 1),
        [
            ("lane_free", 0), ("rows_arrived", 1, 0), ("rows_arrived", 2, 0), (20, 0, LATER), ("client_left", 1),
            (20, 1, sent(20, 64, "all_blocked")), ("reply_delivered", 1, 2),
        ],
    ),
    "a quarter of a full batch is enough for a lane that is free": (
        (9,),
        [
            ("lane_free", 0), ("rows_arrived", 1, 0), (63, 0, LATER), ("rows_arrived", 1, 1),
            (64, 1, sent(64, 64, "quarter_full")),
        ],
    ),
    "two lanes share evenly in whole buckets": (
        (1,),
        [
            ("rows_arrived", 1, 0), ("lane_free", 0), ("lane_free", 1), (130, 0, sent(128, 128, "all_blocked", 1)),
            (2, 0, sent(2, 64, "all_blocked")),
        ],
    ),
    "few rows are not shared": (
        (1,),
        [("rows_arrived", 1, 0), ("lane_free", 0), ("lane_free", 1), (60, 0, sent(60, 64, "all_blocked", 1))],
    ),
    "more than one top bucket for two lanes is full": (
        (1,),
        [("rows_arrived", 1, 0), ("lane_free", 0), ("lane_free", 1), (600, 0, sent(256, 256, "full", 1))],
    ),
    "a smaller top bucket from now on": (
        (1,),
        [("rows_arrived", 1, 0), ("limit_rows", 128), ("lane_free", 0), (600, 0, sent(128, 128, "full"))],
    ),
    "draining sends everything off": (
        (9,),
        [("rows_arrived", 1, 0), ("lane_free", 0), (60, 0, LATER), ("drain",), (60, 1, sent(60, 64, "shutdown"))],
    ),
    "a withdrawn lane gets nothing": (
        (1,),
        [("lane_free", 0), ("lane_busy", 0), ("rows_arrived", 1, 1), (90, 3, NO_WAKE_UP)],
    ),
}  # fmt: skip
"""Windows of the clients; then events (name, arguments), and (waiting rows, now, what is decided)."""


@pytest.mark.parametrize("name", CASES)
def test_events(name: str) -> None:
    windows, events = CASES[name]
    policy = made(*windows)
    for event in events:
        if isinstance(event[0], str):
            getattr(policy, event[0])(*event[1:])
        else:
            rows, now, wanted = event
            assert policy.decide([Waiting(rows)] if rows else [], now) == wanted


def test_one_set_of_weights_a_batch_the_oldest_first() -> None:
    policy = made(2)
    policy.rows_arrived(1, 0)
    policy.rows_arrived(1, 1)
    policy.lane_free(0)
    both = [Waiting(20, 0, weights=5), Waiting(90, 1, weights=3)]
    assert policy.decide(both, 2) == Dispatch(0, 5, 20, 64, "all_blocked")
    policy.lane_free(0)
    assert policy.decide(both[1:], 3) == Dispatch(0, 3, 90, 128, "all_blocked")


def test_a_client_that_fell_silent_costs_one_delay_and_then_no_more() -> None:
    policy = made(1, 1)
    for client in (1, 2):
        policy.rows_arrived(client, 0)
        policy.reply_delivered(client, 0)
    policy.lane_free(0)
    policy.rows_arrived(1, IDLE)  # client 2 says nothing more
    assert policy.decide([Waiting(8, IDLE)], IDLE) == Wait(IDLE + DELAY)
    assert policy.decide([Waiting(8, IDLE)], IDLE + DELAY) == sent(8, 64, "delay")
    assert policy.live_clients == 1
    policy.reply_delivered(1, IDLE + DELAY)
    policy.lane_free(0)
    policy.rows_arrived(1, 2 * IDLE)
    assert policy.decide([Waiting(8, 2 * IDLE)], 2 * IDLE) == sent(8, 64, "all_blocked")
    assert policy.reasons == {**dict.fromkeys(REASONS, 0), "all_blocked": 1, "delay": 1}


def test_one_bucket_takes_everything() -> None:
    policy = made(1, buckets=(96,))
    policy.rows_arrived(1, 0)
    policy.lane_free(0)
    policy.lane_free(1)
    assert policy.decide([Waiting(100)], 0) == sent(96, 96, "all_blocked", 1)
    assert policy.decide([Waiting(4)], 0) == sent(4, 96, "all_blocked")
