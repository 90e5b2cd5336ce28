"""What messages without new rows may cost: who is read and who is answered, as literal events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grove.inference_server.channels.rate_limiter import FIRST, MOST, MOST_IN_FLOOD, NO_BOUND, RateLimiter, RateLimits

SHARES = RateLimits(later=0.05, first=0.1)
TICK_NS = 1000  # 50 for later messages, 100 for first ones


def test_a_sender_is_read_up_to_a_bound() -> None:
    allowance = RateLimiter(TICK_NS, SHARES)
    for _ in range(MOST):
        assert allowance.reads(b"a")
        assert allowance.answers(b"a")
        allowance.charge(b"a", 0)
    assert not allowance.reads(b"a")
    assert allowance.reads(b"b")
    allowance.renew()
    assert allowance.reads(b"a")


def test_in_a_flood_first_messages_are_answered_and_later_ones_are_not() -> None:
    allowance = RateLimiter(TICK_NS, SHARES)
    for _ in range(FIRST + 5):
        assert allowance.answers(b"a")
        allowance.charge(b"a", 10)
    assert allowance.flooded
    assert not allowance.answers(b"a")
    assert allowance.answers(b"b")
    allowance.renew()
    assert not allowance.flooded
    assert allowance.answers(b"a")


def test_in_a_flood_a_sender_is_read_less() -> None:
    allowance = RateLimiter(TICK_NS, SHARES)
    for _ in range(MOST_IN_FLOOD):
        allowance.charge(b"quiet", 0)
    assert allowance.reads(b"quiet")
    for _ in range(FIRST + 1):
        allowance.charge(b"a", 50)
    assert not allowance.reads(b"quiet")
    assert allowance.reads(b"a")


def test_a_flood_of_new_senders_runs_out_of_answers_too() -> None:
    allowance = RateLimiter(TICK_NS, SHARES)
    for number in range(10):
        sender = bytes([number])
        assert allowance.answers(sender)
        allowance.charge(sender, 10)
    assert not allowance.answers(b"new")
    assert allowance.reads(b"new")
    assert not allowance.flooded


def test_without_a_bound_everything_is_answered() -> None:
    allowance = RateLimiter(TICK_NS, NO_BOUND)
    for number in range(TICK_NS - 1):
        assert allowance.answers(bytes([number % 20]))
        allowance.charge(bytes([number % 20]), 1)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), max_size=200))
def test_answers_never_cost_more_than_the_shares_and_one_message_each(messages: list[tuple[int, int]]) -> None:
    allowance, spent = RateLimiter(TICK_NS, SHARES), 0
    for number, cost in messages:
        sender = bytes([number])
        if allowance.reads(sender):
            spent += cost if allowance.answers(sender) else 0
            allowance.charge(sender, cost)
    assert spent <= 150 + 2 * 20
