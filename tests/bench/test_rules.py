"""The batching rules that ours is measured against: literal lists of events, and that none loses or keeps rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from grove.workers.selfplay.evaluators import row_spec
from grove.workers.selfplay.group import Group
from tests.support.arithmetic_network import ArithmeticBackend

DELAY = 5_000_000
LIMITS = Limits(buckets=(64, 128, 256), max_delay_ns=DELAY, idle_after_ns=100_000_000, min_share_rows=32)

W = WINDOW_NS
FREE, OTHER_FREE = ("lane_free", 0), ("lane_free", 1)


def rows(count: int, now: int, client: int = 1) -> tuple[str | int, ...]:
    return ("rows", client, count, now)


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


@dataclass
class Waiting:
    """The rows of one set of weights: arrival and count of each request."""

    requests: list[tuple[int, int]]
    weights: int = 0

    @property
    def rows(self) -> int:
        return sum(count for _, count in self.requests)

    @property
    def oldest_ns(self) -> int:
        return self.requests[0][0]

    @property
    def oldest_rows(self) -> int:
        return self.requests[0][1]


class Fed:
    """A policy with the rows that wait for it."""

    def __init__(self, kind: PolicyKind) -> None:
        self.policy, self.waiting = kind(LIMITS), Waiting([])
        for client in (1, 2):
            self.policy.client_joined(client, 1)

    def rows(self, client: int, count: int, now: int) -> None:
        self.waiting.requests.append((now, count))
        self.policy.rows_arrived(client, now)

    def decide(self, now: int) -> Dispatch | Wait:
        decision = self.policy.decide([self.waiting] if self.waiting.requests else [], now)
        left = decision.rows if isinstance(decision, Dispatch) else 0
        while left:
            arrived, count = self.waiting.requests.pop(0)
            if count > left:
                self.waiting.requests.insert(0, (arrived, count - left))
            left -= min(count, left)
        return decision


@pytest.mark.parametrize("name", CASES)
def test_events(name: str) -> None:
    kind, events, expected = CASES[name]
    fed, decisions = Fed(kind), []
    for event in events:
        if isinstance(event, int):
            decisions.append(fed.decide(event))
        else:
            getattr(fed, event[0], getattr(fed.policy, event[0], None))(*event[1:])
    assert decisions == expected


@pytest.mark.parametrize("kind", [*FIXED.values(), AlwaysWaited])
def test_every_row_leaves_by_the_clock_or_at_the_end(kind: PolicyKind) -> None:
    fed = Fed(kind)
    policy = fed.policy
    now = sent = 0
    for count in (1, 70, 200, 300):
        fed.rows(1, count, now)
        policy.lane_free(0)
        while not isinstance(decision := fed.decide(now), Dispatch):
            assert decision.until_ns is not None
            assert decision.until_ns > now
            now = decision.until_ns
        sent += decision.rows
        assert policy.reasons[decision.reason] >= 1
    policy.drain()
    while fed.waiting.requests:
        policy.lane_free(0)
        decision = fed.decide(now)
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
    evaluator = server.connect(1)
    group.start(1, range(first, first + EACH))
    while group.playing:
        while len(decided := group.search()):
            group.play(decided)
        rows = group.ask()
        if len(rows.ids):
            evaluator.submit(rows.observations)
            answer = evaluator.collect(100.0)
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
