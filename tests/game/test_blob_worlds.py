"""Worlds of Blob: consistent with what the mover knows, exactly uniform, and blind to what is hidden.

Uniformity: every consistent deal of a small deck is enumerated, and worlds are counted against them by a chi-square
test. Thresholds were fixed before the first run: each p-value must exceed `LEAST_P`, so that the whole file fails by
chance once in about a thousand seeds; seeds are fixed, so it does not fail now and then.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from grove.game.blob import Blob
from tests.support.blob_tools import bits, both, cards_of, play, start_state
from tests.support.naive_blob import suit
from tests.support.positions import legal_actions, played, result, start

LEAST_P = 1e-4
SAMPLES_PER_DEAL = 40


def draw(game: Blob, state: np.ndarray, count: int, seed: int) -> np.ndarray:
    states = np.repeat(state, count)
    out = np.frombuffer(bytes([7]) * states.nbytes, game.state_dtype).copy()
    game.determinize(states, np.random.default_rng(seed).integers(0, 1 << 63, count, np.uint64), out)
    return out


def p_value(counts: np.ndarray) -> float:
    """Return the chi-square test's p-value for equal expectations (Wilson and Hilferty's normal approximation)."""
    freedom = len(counts) - 1
    expected = counts.sum() / len(counts)
    chi = ((counts - expected) ** 2 / expected).sum()
    z = ((chi / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return 0.5 * math.erfc(z / math.sqrt(2))


# -- consistency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("players", "cards"), [(3, 17), (4, 5), (4, 13), (5, 7), (8, 6), (6, 8)])
def test_worlds_agree_with_all_that_is_known(players: int, cards: int) -> None:
    game, rng = Blob(players, cards), np.random.default_rng([players, cards])
    for _ in range(6):
        state, twin = both(game, rng)
        while not twin.over():
            worlds = draw(game, state, 5, int(rng.integers(1 << 30)))
            sizes, voids, mover = [len(hand) for hand in twin.hands], twin.voids(), twin.mover
            for world in worlds:
                hands = [cards_of(hand) for hand in world["hands"]]
                assert hands[mover] == twin.hands[mover]
                assert [len(hand) for hand in hands] == sizes
                assert len(set.union(*hands)) == sum(sizes)
                assert not set.union(*hands) & twin.played()
                assert not any({suit(c) for c in hands[p]} & voids[p] for p in range(players) if p != mover)
            public = [n for n in game.state_dtype.names or () if n not in ("hands", "key", "world")]
            assert all((worlds[name] == state[name]).all() for name in public)
            play(game, state, twin, int(rng.choice(twin.legal())))


def test_hidden_cards_change_no_world() -> None:
    game, rng = Blob(5, 6), np.random.default_rng(2)
    for _ in range(30):
        state, twin = both(game, rng)
        while not twin.over():
            other = draw(game, state, 1, int(rng.integers(1 << 30)))
            assert draw(game, state, 4, 9).tobytes() == draw(game, other, 4, 9).tobytes()
            play(game, state, twin, int(rng.choice(twin.legal())))


def test_a_match_hides_later_deals() -> None:
    game = Blob(4, match=3)
    state, rng = start(game, 5), np.random.default_rng(0)
    world = draw(game, state, 1, 0)
    assert (int(world["key"][0]), int(state["key"][0])) == (0, 5)
    for _ in range(4 + 4 * 3):
        assert result(game, world) is None
        world = played(game, world, int(rng.choice(legal_actions(game, world))))
    scores = [10 + b if b == w else 0 for b, w in zip(world["bids"][0], world["won"][0], strict=True)]
    np.testing.assert_allclose(result(game, world), 2 * np.array(scores) / 13 - 1)


# -- uniformity ------------------------------------------------------------------------------------------------------

HIDDEN = 4
"""Cards of each suit that are not accounted for in the small decks below; all others count as played."""


def small_round(game: Blob, seed: int, cards_left: dict[int, int], voids: dict[int, set[int]]) -> np.ndarray:
    """Return a state in the middle of a round in which only a few cards are unknown.

    Of each suit s, `cards_left[s]` cards are in play or undealt; every seat holds `game.rounds[0] - 1` cards, the first
    trick is over and seat 0 leads. `voids` are the suits that seats have shown to lack.
    """
    rng = np.random.default_rng(seed)
    pool = [13 * s + int(r) for s, n in cards_left.items() for r in rng.permutation(13)[:n]]
    hold, players = game.rounds[0] - 1, game.num_players
    while True:  # any deal that agrees with the voids
        order = [int(c) for c in rng.permutation(pool)]
        hands = [set(order[hold * p : hold * (p + 1)]) for p in range(players)]
        if not any({suit(c) for c in hands[p]} & voids.get(p, set()) for p in range(players)):
            break
    gone = set(range(52)) - set(pool)
    state = start_state(game, [{c} for c in range(players)], 0, players - 1)
    state["hands"][0] = [bits(hand) for hand in hands]
    state["bids"][0], state["mover"], state["won"][0] = 0, 0, [1] + [0] * (players - 1)
    state["played"][0] = bits(gone)
    state["void"][0] = [sum(1 << s for s in voids.get(p, ())) for p in range(players)]
    return state


def all_deals(game: Blob, state: np.ndarray, voids: dict[int, set[int]]) -> list[tuple[int, ...]]:
    """Return the hands of all seats but the mover in every consistent deal, by brute force."""
    hands, me = [cards_of(hand) for hand in state["hands"][0]], int(state["mover"][0])

    def deal(seat: int, left: list[int]) -> list[tuple[int, ...]]:
        if seat == game.num_players:
            return [()]
        if seat == me:
            return deal(seat + 1, left)
        allowed = [c for c in left if suit(c) not in voids.get(seat, set())]
        found = []
        for hand in itertools.combinations(allowed, len(hands[seat])):
            rest = [c for c in left if c not in hand]
            found += [(bits(set(hand)), *others) for others in deal(seat + 1, rest)]
        return found

    return deal(0, sorted(set(range(52)) - cards_of(state["played"][0]) - hands[me]))


def assert_uniform(game: Blob, state: np.ndarray, voids: dict[int, set[int]], seed: int) -> None:
    deals = {deal: k for k, deal in enumerate(all_deals(game, state, voids))}
    worlds = draw(game, state, SAMPLES_PER_DEAL * len(deals), seed)
    others = np.delete(worlds["hands"], int(state["mover"][0]), axis=1)[:, : game.num_players - 1]
    found = np.array([deals[tuple(map(int, hands))] for hands in others])
    assert p_value(np.bincount(found, minlength=len(deals))) > LEAST_P


HISTORIES = {
    "no void": (4, 2, {0: 3, 1: 3, 2: 2, 3: 2}, {}),
    "one void": (3, 3, {0: 3, 1: 3, 2: 2, 3: 1}, {1: {0}}),
    "two seats, same void": (4, 3, {0: 3, 1: 3, 2: 2, 3: 2}, {1: {1}, 3: {1}}),
    "two seats, different voids": (4, 3, {0: 3, 1: 3, 2: 2, 3: 2}, {1: {0}, 2: {1, 2}}),
    "three classes": (4, 3, {0: 3, 1: 3, 2: 3, 3: 1}, {1: {0}, 2: {1}, 3: {2}}),
    "one suit left to a seat": (4, 3, {0: 4, 1: 3, 2: 2, 3: 2}, {1: {1, 2, 3}, 2: {0}}),
    "nested voids": (5, 2, {0: 3, 1: 3, 2: 2, 3: 1}, {1: {0}, 2: {0, 1}, 3: {0, 1, 2}}),
    "five classes": (6, 2, {0: 3, 1: 2, 2: 2, 3: 2}, {1: {0}, 2: {1}, 3: {2}, 4: {3}, 5: {0, 1}}),
    "a suit that is gone": (4, 3, {0: 4, 1: 4, 2: 2}, {1: {0, 3}, 2: {3}, 3: {1}}),
    "eight seats": (8, 2, {0: 3, 1: 3, 2: 2, 3: 1}, {1: {0}, 2: {1}, 3: {2}, 4: {0, 1}, 5: {1, 2}, 6: {0, 2}}),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_worlds_are_uniform(name: str) -> None:
    players, cards, left, voids = HISTORIES[name]
    game = Blob(players, cards)
    assert_uniform(game, small_round(game, 11, left, voids), voids, 12)


def test_the_test_finds_a_biased_sampler() -> None:
    """Seats served one after the other, each from what is left to it, is the obvious sampler and a biased one."""
    players, cards, left, voids = HISTORIES["two seats, different voids"]
    game = Blob(players, cards)
    state = small_round(game, 11, left, voids)
    deals = {deal: k for k, deal in enumerate(all_deals(game, state, voids))}
    rng, counts = np.random.default_rng(0), np.zeros(len(deals))
    hands = [cards_of(hand) for hand in state["hands"][0]]
    while counts.sum() < SAMPLES_PER_DEAL * len(deals):
        pool, deal = set(range(52)) - cards_of(state["played"][0]) - hands[0], []
        for seat in range(1, players):
            allowed = [c for c in sorted(pool) if suit(c) not in voids.get(seat, set())]
            if len(allowed) < len(hands[seat]):
                break
            hand = {int(c) for c in rng.permutation(allowed)[: len(hands[seat])]}
            pool -= hand
            deal.append(bits(hand))
        else:
            counts[deals[tuple(deal)]] += 1
    assert p_value(counts) < LEAST_P


def test_played_rounds_are_uniform_too() -> None:
    """The same with voids that were shown by real play, the running trick included."""
    game, tested = Blob(4, 3), 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        state, twin = both(game, rng)
        for _ in range(4 + 6):
            play(game, state, twin, int(rng.choice(twin.legal())))
        shown = {p: s for p, s in twin.voids().items() if s and p != twin.mover}
        if not twin.trick or len(shown) < 2 or tested == 3:
            continue
        # Of the 30 and more cards that were not dealt, all but four count as played, so that the deals can be counted.
        unknown = set(range(52)) - twin.played() - set.union(*twin.hands)
        gone = sorted(unknown)[: len(unknown) - HIDDEN]
        state["played"][0] |= np.uint64(bits(set(gone)))
        assert_uniform(game, state, twin.voids(), seed)
        tested += 1
    assert tested == 3
