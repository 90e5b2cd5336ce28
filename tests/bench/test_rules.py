"""The batching rules that ours is measured against: literal lists of events, and that none loses or keeps rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from grove.bench.core.modes import FIXED
from grove.bench.core.rules import (
    LESS_NS,
    MORE_NS,
    RESCUE_NS,
    SHORT_NS,
    WINDOW_NS,
    AdaptiveWait,
    AlwaysWaited,
    Drain,
    FullOnly,
    OneMillisecond,
    TimeOutOnly,
)
from grove.game import load_game
from grove.inference_server import InferenceServer, ServerSettings
from grove.inference_server.batching.policy import NO_WAKE_UP, Dispatch, Limits, Policy, PolicyKind, Wait
from grove.mcts import SearchSettings
from grove.records.record import GameRecord
from grove.workers.selfplay.evaluators import ServedEvaluator, row_spec
from grove.workers.selfplay.group import Group
from tests.support.arithmetic_network import ArithmeticBackend

DELAY = 5_000_000
LIMITS = Limits(buckets=(64, 128, 256), max_delay_ns=DELAY, idle_after_ns=100_000_000, min_share_rows=32)

W = WINDOW_NS
FREE, OTHER_FREE = ("lane_free", 0), ("lane_free", 1)


def rows(count: int, now: int, client: int = 1) -> tuple[str | int, ...]:
    return ("rows_arrived", client, count, 0, now)


CASES = {
    "full-only: one blocked client does not matter, and rows are rescued": (
        FullOnly,
        [FREE, rows(100, 0), ("client_blocked", 1), 1, RESCUE_NS - 1, RESCUE_NS],
        [Wait(RESCUE_NS), Wait(RESCUE_NS), Dispatch(0, 0, 100, 128, "delay")],
    ),
    "time-out-only: full does not matter": (
        TimeOutOnly,
        [FREE, rows(300, 0), DELAY - 1, DELAY],
        [Wait(DELAY), Dispatch(0, 0, 256, 256, "delay")],
    ),
    "drain: whatever waits, without a share for the other lane": (
        Drain,
        [FREE, OTHER_FREE, 0, rows(3, 5), 5, rows(300, 6), 6, 6],
        [NO_WAKE_UP, Dispatch(1, 0, 3, 64, "free"), Dispatch(0, 0, 256, 256, "free"), NO_WAKE_UP],
    ),
    "1ms: after a millisecond": (
        OneMillisecond,
        [FREE, rows(3, 5), 5, 5 + SHORT_NS],
        [Wait(5 + SHORT_NS), Dispatch(0, 0, 3, 64, "delay")],
    ),
    "always-waited: the window begins when a lane sees rows": (
        AlwaysWaited,
        [rows(300, 0), 0, FREE, 50, 50 + W - 1, 50 + W],
        [NO_WAKE_UP, Wait(50 + W), Wait(50 + W), Dispatch(0, 0, 256, 256, "delay")],
    ),
    "adaptive-wait: in vain, then one request, and less the next time": (
        AdaptiveWait,
        [FREE, rows(20, 0), rows(30, 1, client=2), 1, 1 + W, FREE, 2 * W],
        [Wait(1 + W), Dispatch(0, 0, 20, 64, "single"), Wait(3 * W - LESS_NS)],
    ),
    "adaptive-wait: what comes beside a single request makes the wait longer, and no second one is taken": (
        AdaptiveWait,
        [FREE, OTHER_FREE, rows(20, 0), 0, W, rows(30, W, client=2), W, 3 * W, OTHER_FREE, 5 * W],
        [Wait(W), Dispatch(1, 0, 20, 64, "single"), Wait(2 * W - LESS_NS + MORE_NS), Wait(4 * W - LESS_NS + MORE_NS),
         Dispatch(1, 0, 30, 64, "single")],
    ),
}  # fmt: skip
"""Name -> rule, events (a number: the time at which it decides), decisions."""


@pytest.mark.parametrize("name", CASES)
def test_events(name: str) -> None:
    kind, events, expected = CASES[name]
    policy = kind(LIMITS)
    for client in (1, 2):
        policy.client_joined(client, 1)
    decisions = []
    for event in events:
        if isinstance(event, int):
            decisions.append(policy.decide(event))
        else:
            getattr(policy, event[0])(*event[1:])
    assert decisions == expected


@pytest.mark.parametrize("kind", [*FIXED.values(), AlwaysWaited])
def test_every_row_leaves_by_the_clock_or_at_the_end(kind: PolicyKind) -> None:
    policy = kind(LIMITS)
    policy.client_joined(1, 4)
    now = sent = 0
    for rows in (1, 70, 200, 300):
        policy.rows_arrived(1, rows, 0, now)
        policy.lane_free(0)
        while not isinstance(decision := policy.decide(now), Dispatch):
            assert decision.until_ns is not None
            assert decision.until_ns > now
            now = decision.until_ns
        sent += decision.rows
        assert policy.reasons[decision.reason] >= 1
    policy.drain()
    while policy.waiting_rows:
        policy.lane_free(0)
        decision = policy.decide(now)
        assert isinstance(decision, Dispatch)
        assert decision.reason == "shutdown"
        sent += decision.rows
    assert sent == 571


# -- real searches -----------------------------------------------------------------------------------------------------

GAME, EACH = "hex:size=3", 8


def played_by(server: InferenceServer, first: int) -> list[GameRecord]:
    """Play `EACH` games from index `first` on in one group, one request at a time; return them as they ended."""
    game = load_game(GAME)
    group = Group(game, GAME, SearchSettings(simulations=6), EACH, None)
    evaluator = ServedEvaluator(server.connect(1), game.num_actions)
    group.start(1, range(first, first + EACH))
    while group.playing:
        while len(decided := group.search()):
            group.play(decided)
        for rows in group.ask():
            evaluator.submit(rows)
            answer = evaluator.collect(60.0)
            assert answer is not None, "no wait without an end"
            group.tell(rows.ids.copy(), answer)
    evaluator.close()
    return group.finished


def test_whatever_the_rule_the_same_games_are_searched() -> None:
    spec = row_spec(load_game(GAME))
    found = []
    for rule in (Policy, *FIXED.values(), AlwaysWaited):
        backend = ArithmeticBackend(spec)
        settings = ServerSettings(max_batch=backend.buckets[-1], max_delay_us=1000)
        with InferenceServer(spec, [backend], settings, rule) as server, ThreadPoolExecutor(2) as threads:
            games = [record for part in threads.map(partial(played_by, server), (0, EACH)) for record in part]
            assert rule is Policy or server.stats()["reasons"]["all_blocked"] == 0, "that reason is ours"
        games.sort(key=lambda record: record.index)
        found.append([(one.index, one.moves, one.visits, one.values, one.utilities) for one in games])
    assert len(found[0]) == 2 * EACH
    assert all(games == found[0] for games in found)
