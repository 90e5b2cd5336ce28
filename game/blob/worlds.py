"""Worlds of Blob: deals drawn exactly uniformly from those that agree with all that the mover knows.

Known are the own hand, the cards played, how many cards each seat still holds, and the suits that a seat has shown to
lack. Seats that lack the same suits form one class; those that lack nothing form the free class, together with the
cards that were not dealt. Within a class any exchange of cards gives another consistent deal, so a class's cards may be
dealt out at random once they are chosen, and a deal is uniform when the *numbers* of cards of each suit that go to each
class are drawn in proportion to the deals they stand for. For classes j = 0..J-1 with needs N_j and remaining cards
m_s, the free class taking what is left,

    deals(j, m) = sum over k with sum_s k_s = N_j, k_s = 0 in suits that j lacks, of
                  prod_s binomial(m_s, k_s) * deals(j + 1, m - k)
    deals(J - 1, m) = binomial(sum of m_s in its suits, N_{J-1})            (Vandermonde)
    deals(J, m) = 1

up to factors that are the same for all deals. One class needs no table and two need none either; more classes need
tables over m, at most 14**3 entries a class since the sum of m is known. Nothing is ever rejected, and there is no dead
end: the true deal is one of those counted. Counts are float64, so a deal's probability is off by about 1e-15 of itself.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grove.common.kernels import kernel, lean_kernel
from grove.common.rng import below, uniform
from grove.game.blob.cards import ALL_CARDS, SUIT_CARDS, lowest_card
from grove.game.blob.rules import NONE

_BINOMIAL = np.array([[math.comb(n, k) for k in range(53)] for n in range(53)], np.float64)
_ONE, _NO_SEED = np.uint64(1), np.uint64(0)
_SUITS, _RANKS, _CLASSES = 4, 13, 16


class DealScratch(NamedTuple):
    """What drawing one world works with; a class is named by the bits of the suits it may hold."""

    cards: NDArray[np.int64]
    """[4, 13] unknown cards of each suit that are not dealt yet."""
    left: NDArray[np.int64]
    """[4] how many these are."""
    bag: NDArray[np.int64]
    """[52] cards of the class being dealt."""
    counts: NDArray[np.int64]
    """[2] random numbers drawn so far; restricted classes J."""
    allowed: NDArray[np.int64]
    """[8] class of each seat."""
    needs: NDArray[np.int64]
    """[16] cards wanted by each class; the mover's own hand left out."""
    order: NDArray[np.int64]
    """[16] the restricted classes in the order they are served."""
    split: NDArray[np.int64]
    """[4] cards of each suit for the class being served."""
    tables: NDArray[np.float64]
    """[J, 14, 14, 14] deals(j, m) by the cards of the first three suits that are gone."""


@kernel
def determinize(states: NDArray[Any], seeds: NDArray[np.uint64], out: NDArray[Any]) -> None:
    """Write a world for the mover of each state; it ends with the round and knows no later deal."""
    scratch = DealScratch(
        np.empty((_SUITS, _RANKS), np.int64),
        np.empty(_SUITS, np.int64),
        np.empty(52, np.int64),
        np.empty(2, np.int64),
        np.empty(8, np.int64),
        np.empty(_CLASSES, np.int64),
        np.empty(_CLASSES, np.int64),
        np.empty(_SUITS, np.int64),
        np.empty((6, 14, 14, 14), np.float64),
    )
    for i in range(states.shape[0]):
        _copy_public(states[i], out[i])
        _draw(out[i], seeds[i], scratch)


@lean_kernel
def _copy_public(state, world):
    """Copy what the mover knows: everything but the other hands and the key of later deals."""
    players = state.hands.shape[0]
    world.key = 0
    world.world = 1
    world.over = 0
    world.played = state.played
    for seat in range(players):
        world.hands[seat] = 0
        world.totals[seat] = state.totals[seat]
        world.bids[seat] = state.bids[seat]
        world.won[seat] = state.won[seat]
        world.void[seat] = state.void[seat]
        world.trick[seat] = state.trick[seat]
    world.hands[state.mover] = state.hands[state.mover]
    world.in_trick = state.in_trick
    world.mover = state.mover
    world.dealer = state.dealer
    world.trump = state.trump
    world.cards = state.cards
    world.round = state.round
    world.start = state.start
    world.ones = state.ones


@lean_kernel
def _draw(world, seed, s):
    """Deal the unknown cards to the other seats."""
    unknown = ALL_CARDS ^ world.played ^ world.hands[world.mover]
    s.counts[0] = 0
    available = 0
    for suit in range(_SUITS):
        in_suit = unknown & SUIT_CARDS[suit]
        s.left[suit] = 0
        while in_suit:
            s.cards[suit, s.left[suit]] = lowest_card(in_suit)
            s.left[suit] += 1
            in_suit &= in_suit - _ONE
        available |= (1 << suit) if s.left[suit] > 0 else 0
    _sort_seats(world, available, s)
    if s.counts[1] > 2:
        _fill_tables(s)
    _serve_restricted(world, seed, s)
    size = 0
    for suit in range(_SUITS):
        for k in range(s.left[suit]):
            s.bag[size] = s.cards[suit, k]
            size += 1
    _deal_bag(world, seed, available, size, s)


@lean_kernel
def _hand_size(world, seat):
    """Return how many cards `seat` holds: a public number."""
    players = world.hands.shape[0]
    finished = world.won.sum()
    leader = (np.int64(world.mover) - np.int64(world.in_trick)) % players
    return np.int64(world.cards) - np.int64(finished) - (1 if (seat - leader) % players < world.in_trick else 0)


@lean_kernel
def _sort_seats(world, available, s):
    """Find every seat's class, the classes' needs, and the order of the restricted ones: the largest need last."""
    for c in range(_CLASSES):
        s.needs[c] = 0
    for seat in range(world.hands.shape[0]):
        s.allowed[seat] = NONE
        if seat != world.mover:
            s.allowed[seat] = available & ~np.int64(world.void[seat])
            s.needs[s.allowed[seat]] += _hand_size(world, seat)
    classes = 0
    for c in range(_CLASSES):
        if c != available and s.needs[c] > 0:
            s.order[classes] = c
            classes += 1
            if classes > 1 and s.needs[s.order[classes - 2]] > s.needs[c]:
                s.order[classes - 1] = s.order[classes - 2]
                s.order[classes - 2] = c
    s.counts[1] = classes


@lean_kernel
def _serve_restricted(world, seed, s):
    """Choose the cards of the restricted classes, one class after the other, and deal them to their seats."""
    gone_0 = gone_1 = gone_2 = 0
    for j in range(s.counts[1]):
        _sum_splits(seed, j, (gone_0, gone_1, gone_2), s, True)
        gone_0 += s.split[0]
        gone_1 += s.split[1]
        gone_2 += s.split[2]
        size = 0
        for suit in range(_SUITS):
            for _ in range(s.split[suit]):
                s.left[suit] -= 1
                place = _random(seed, s.left[suit] + 1, s)
                s.bag[size] = s.cards[suit, place]
                s.cards[suit, place] = s.cards[suit, s.left[suit]]
                size += 1
        _deal_bag(world, seed, s.order[j], size, s)


@lean_kernel
def _deal_bag(world, seed, which, size, s):
    """Deal the bag's first `size` cards at random to the seats of class `which`."""
    for seat in range(world.hands.shape[0]):
        if s.allowed[seat] == which:
            for _ in range(_hand_size(world, seat)):
                size -= 1
                place = _random(seed, size + 1, s)
                world.hands[seat] |= _ONE << np.uint64(s.bag[place])
                s.bag[place] = s.bag[size]


@lean_kernel
def _random(seed, bound, s):
    s.counts[0] += 1
    return below(seed, s.counts[0], bound)


@lean_kernel
def _sum_splits(seed, j, gone, s, draw):
    """Return deals(j, m) with m = `s.left`; `gone` cards of the first three suits are dealt already.

    With `draw` one of the ways to split the class's cards over suits is kept in `s.split`, each in proportion to the
    deals it stands for: of a running total, the latest takes the place of the former with its share.
    """
    which = s.order[j]
    need, total = s.needs[which], 0.0
    for a in range(_most(s, which, 0, need) + 1):
        for b in range(_most(s, which, 1, need - a) + 1):
            for c in range(_most(s, which, 2, need - a - b) + 1):
                d = need - a - b - c
                if d > _most(s, which, 3, d):
                    continue
                weight = _ways(s.left[0], a) * _ways(s.left[1], b) * _ways(s.left[2], c) * _ways(s.left[3], d)
                weight *= _deals(j + 1, gone[0] + a, gone[1] + b, gone[2] + c, s, (a, b, c, d))
                total += weight
                if draw and weight > 0.0:
                    s.counts[0] += 1
                    if uniform(seed, s.counts[0]) * total < weight:
                        s.split[0], s.split[1], s.split[2], s.split[3] = a, b, c, d
    return total


@lean_kernel
def _most(s, which, suit, need):
    """Return how many of `need` cards class `which` can get from `suit`."""
    return min(s.left[suit], need) if (which >> suit) & 1 else 0


@lean_kernel
def _ways(n, k):
    return _BINOMIAL[n, k]


@lean_kernel
def _deals(j, gone_0, gone_1, gone_2, s, taken):
    """Return deals(j, m), where m is what is left after `taken` cards of each suit."""
    classes = s.counts[1]
    if j == classes:
        return 1.0
    if j < classes - 1:
        return s.tables[j, gone_0, gone_1, gone_2]
    which, cards = s.order[j], 0
    for suit in range(_SUITS):
        cards += (s.left[suit] - taken[suit]) if (which >> suit) & 1 else 0
    return _BINOMIAL[cards, s.needs[which]]


@lean_kernel
def _fill_tables(s):
    """Write deals(j, m) for the classes between the first and the last, the later ones first."""
    full_0, full_1, full_2, full_3 = s.left[0], s.left[1], s.left[2], s.left[3]
    for j in range(s.counts[1] - 2, 0, -1):
        gone = 0
        for i in range(j):
            gone += s.needs[s.order[i]]
        for a in range(min(full_0, gone) + 1):
            for b in range(min(full_1, gone - a) + 1):
                for c in range(min(full_2, gone - a - b) + 1):
                    d = gone - a - b - c
                    if d <= full_3:
                        s.left[0], s.left[1], s.left[2], s.left[3] = full_0 - a, full_1 - b, full_2 - c, full_3 - d
                        s.tables[j, a, b, c] = _sum_splits(_NO_SEED, j, (a, b, c), s, False)
    s.left[0], s.left[1], s.left[2], s.left[3] = full_0, full_1, full_2, full_3
