"""What a network sees of Blob: 256 numbers, int8 in units of 1/120.

120 is a multiple of 2, 3, 4, 5, 6, 8, 10 and 12, so most fractions are exact; the others (thirteenths, sevenths, ...)
are off by at most 1/240, about what bf16 rounds away between a half and one. The order of a trick, 1 to 8, is stored as
eighths. Numbers, with C cards a round and P players, seats counted from the mover on (`layout=source`: by number):

    0-51     own hand                                 52-103   order of the cards in the current trick / 8
    104-155  played this round, this trick included   156-163  bids / C, -1 not yet; 0 for missing seats
    164-171  tricks won / C                           172, 173 own bid / C (or -1), own tricks / C
    174-177  C/13 (at most 127/120); finished tricks / C; (own seat - dealer) mod P / P; P/8
    178-181  trump suit                               182      own seat deals and bids are wanted
    183-185  phase: bidding, playing, complete        186-190  hand / 13; own cards played / 13; finished tricks / C;
                                                               (own tricks - own bid) / C or 0; cards in trick / P
    191-195  in hand / 13: trumps, spades, hearts, clubs, diamonds
    196-199  per suit: ace held 1, else king 1/2      200      mean rank of trumps in hand / 12
    201      dealer's forbidden bid / C, else -1
    202-209  match: scores / most points              210, 211 rounds finished, rounds left / rounds
    212-226  sizes of the last 15 rounds / 13, this one first (as number 174)

202 to 226 are zero in a stand-alone round, 227 to 255 always. The first 202 are the layout of the public BlobMaster
project, apart from the seats' rotation and the unit.
"""

from __future__ import annotations

import numpy as np

from grove.common.kernels import lean_kernel
from grove.game.blob.cards import SUIT_CARDS, count_cards, lowest_card
from grove.game.blob.rules import NO_TRUMP, NONE, cards_in_round, forbidden_bid, most_points, round_count

ROW = 256
UNIT = 120
"""A one as it is stored."""
_SEATS = 8
_HAND, _TRICK, _PLAYED, _BIDS, _WON, _OWN = 0, 52, 104, 156, 164, 172
_TRUMP, _HAND_FACTS, _MATCH = 178, 191, 202
_SIZES_SHOWN = 15
_ONE, _ACE, _KING = np.uint64(1), np.uint64(12), np.uint64(11)


@lean_kernel
def observe_rotated(states, out):
    """Write rows int8 [B, 256], seats counted from the mover on."""
    for i in range(states.shape[0]):
        _observe(states[i], out[i], states[i].mover)


@lean_kernel
def observe_source(states, out):
    """Write rows int8 [B, 256], seats by their numbers."""
    for i in range(states.shape[0]):
        _observe(states[i], out[i], 0)


@lean_kernel
def _observe(state, row, first):
    """Write one row; `first` is the seat that stands first."""
    for k in range(ROW):
        row[k] = 0
    _mark(state.hands[state.mover], row, _HAND)
    _mark(state.played, row, _PLAYED)
    for k in range(state.in_trick):
        row[_TRICK + state.trick[k]] = (UNIT // _SEATS) * (k + 1)
    _write_seats(state, row, first)
    _write_progress(state, row)
    _write_hand_facts(state, row)
    if state.start > 0:
        _write_match(state, row, first)


@lean_kernel
def _mark(cards, row, start):
    while cards:
        row[start + lowest_card(cards)] = UNIT
        cards &= cards - _ONE


@lean_kernel
def _share(number, whole):
    """Return number / whole in units, rounded half away from zero."""
    doubled = 2 * UNIT * abs(number) + whole
    units = doubled // (2 * whole)
    return units if number >= 0 else -units


@lean_kernel
def _bid(state, seat):
    return -UNIT if state.bids[seat] == NONE else _share(np.int64(state.bids[seat]), np.int64(state.cards))


@lean_kernel
def _size(cards):
    return min(_share(np.int64(cards), 13), 127)


@lean_kernel
def _write_seats(state, row, first):
    players = state.hands.shape[0]
    cards = np.int64(state.cards)
    for k in range(players):
        seat = (first + k) % players
        row[_BIDS + k] = _bid(state, seat)
        row[_WON + k] = _share(np.int64(state.won[seat]), cards)
    row[_OWN] = _bid(state, state.mover)
    row[_OWN + 1] = _share(np.int64(state.won[state.mover]), cards)


@lean_kernel
def _write_progress(state, row):
    players, cards = state.hands.shape[0], np.int64(state.cards)
    mover, dealer = np.int64(state.mover), np.int64(state.dealer)
    bidding = state.bids[dealer] == NONE
    held = count_cards(state.hands[mover])
    finished = np.int64(state.won.sum())
    row[174] = _size(cards)
    row[175] = row[188] = _share(finished, cards)
    row[176] = _share((mover - dealer) % players, players)
    row[177] = _share(players, _SEATS)
    if state.trump != NO_TRUMP:
        row[_TRUMP + state.trump] = UNIT
    row[182] = UNIT if bidding and mover == dealer else 0
    row[185 if state.over else 183 if bidding else 184] = UNIT
    row[186] = _share(held, 13)
    row[187] = _share(cards - held, 13)
    if state.bids[mover] != NONE:
        row[189] = _share(np.int64(state.won[mover]) - np.int64(state.bids[mover]), cards)
    row[190] = _share(np.int64(state.in_trick), players)
    row[201] = -UNIT
    if bidding and forbidden_bid(state) != NONE:
        row[201] = _share(np.int64(forbidden_bid(state)), cards)


@lean_kernel
def _write_hand_facts(state, row):
    hand = state.hands[state.mover]
    for suit in range(4):
        in_suit = hand & SUIT_CARDS[suit]
        ranks = in_suit >> np.uint64(13 * suit)
        row[_HAND_FACTS + 1 + suit] = _share(count_cards(in_suit), 13)
        king = UNIT // 2 if (ranks >> _KING) & _ONE else 0
        row[_HAND_FACTS + 5 + suit] = UNIT if (ranks >> _ACE) & _ONE else king
    if state.trump == NO_TRUMP:
        return
    trumps = hand & SUIT_CARDS[state.trump]
    count, total = count_cards(trumps), 0
    row[_HAND_FACTS] = _share(count, 13)
    while trumps:
        total += lowest_card(trumps) - 13 * np.int64(state.trump)
        trumps &= trumps - _ONE
    if count > 0:
        row[200] = _share(total, 12 * count)


@lean_kernel
def _write_match(state, row, first):
    players = state.hands.shape[0]
    start, ones, number = np.int64(state.start), np.int64(state.ones), np.int64(state.round)
    rounds = round_count(start, ones)
    for k in range(players):
        row[_MATCH + k] = _share(np.int64(state.totals[(first + k) % players]), most_points(start, ones))
    row[_MATCH + 8] = _share(number, rounds)
    row[_MATCH + 9] = _share(rounds - number, rounds)
    for back in range(_SIZES_SHOWN if number >= _SIZES_SHOWN else number + 1):
        row[_MATCH + 10 + back] = _size(cards_in_round(start, ones, number - back))
