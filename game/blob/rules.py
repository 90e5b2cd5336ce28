"""Blob's rules as kernels: deals, bids, tricks, scores; see game/blob/game.py.

Cards are 13 * suit + rank, suits spades 0, hearts 1, clubs 2, diamonds 3, ranks 0 (two) to 12 (ace). Sets of cards are
uint64 bit sets. An action is a bid as long as bids are wanted, a card afterwards.
"""

from __future__ import annotations

import numpy as np

from grove.common.kernels import lean_kernel
from grove.common.rng import below, derive
from grove.game.blob.cards import ALL_CARDS, SUIT_CARDS, card_at, count_cards, lowest_card, suit_of

NO_TRUMP = 4
NONE = -1
"""Of a bid: not yet made; of the trick: no card yet; of the forbidden bid: there is none."""

_ONE = np.uint64(1)
_SETUP_STREAM, _DEAL_STREAM = 0, 1
"""Sub-streams of a game's key: trump and dealer of a stand-alone round; the deal of round r is stream 1 + r."""


def state_dtype(players: int) -> np.dtype[np.void]:
    """Return the record of a game of `players` seats, without padding: 15 * players + 18 bytes."""
    return np.dtype([
        ("key", "u8"),  # of the deals to come; 0 in a world, which ends with its round
        ("played", "u8"),  # cards played this round, the current trick included
        ("hands", "u8", (players,)),
        ("totals", "i2", (players,)),  # scores of the finished rounds
        ("bids", "i1", (players,)),  # NONE: not yet bid
        ("won", "u1", (players,)),  # tricks taken this round
        ("void", "u1", (players,)),  # bit s: has shown to hold none of suit s
        ("trick", "i1", (players,)),  # cards of the current trick in the order they were played; NONE: not yet
        ("in_trick", "u1"),  # cards in the current trick
        ("mover", "u1"), ("dealer", "u1"),
        ("trump", "u1"),  # suit, or NO_TRUMP
        ("cards", "u1"),  # C: cards dealt to each seat this round
        ("round", "u1"),  # rounds finished
        ("start", "u1"),  # C of a match's first round; 0: a stand-alone round
        ("ones", "u1"),  # rounds of one card in a row in the middle of a match
        ("world", "u1"),  # drawn for a search
        ("over", "u1"),
    ])  # fmt: skip


@lean_kernel
def round_count(start, ones):
    """Return the rounds of a match: start, ..., 2, `ones` times one card, 2, ..., start; 1 without a match."""
    return 2 * (start - 1) + ones if start > 0 else 1


@lean_kernel
def cards_in_round(start, ones, number):
    """Return how many cards each seat gets in round `number` (from 0) of a match."""
    if number < start - 1:
        return start - number
    if number < start - 1 + ones:
        return 1
    return number - (start - 1 + ones) + 2


@lean_kernel
def most_points(start, ones):
    """Return the highest score of a match: every bid as high as the round's cards, and kept."""
    return 10 * round_count(start, ones) + start * (start + 1) - 2 + ones


@lean_kernel
def deal(key, number, dealt, left):
    """Return the card dealt as number `dealt` of round `number`, from the cards `left` that are still in the deck."""
    return card_at(left, below(derive(key, _DEAL_STREAM + number), dealt, count_cards(left)))


@lean_kernel
def _begin_round(state, key, players):
    """Deal round `state.round`, whose size, trump and dealer are set: one card at a time from seat 0 upward."""
    left = ALL_CARDS
    for seat in range(players):
        state.hands[seat] = 0
        state.bids[seat] = NONE
        state.won[seat] = 0
        state.void[seat] = 0
        state.trick[seat] = NONE
    for dealt in range(state.cards * players):
        bit = _ONE << np.uint64(deal(key, state.round, dealt, left))
        left ^= bit
        state.hands[dealt % players] |= bit
    state.played = 0
    state.in_trick = 0
    state.mover = (state.dealer + 1) % players


@lean_kernel
def start_games(seeds, out):
    """Deal the first rounds to states whose other fields are a game's template.

    A match begins with seat 0 as dealer and spades; a stand-alone round draws dealer and trump from the seed.
    """
    players = out[0].hands.shape[0] if out.shape[0] else 0
    for i in range(out.shape[0]):
        key = seeds[i]
        out[i].key = key if out[i].start > 0 else np.uint64(0)  # of one type: a mixture would be a float
        if out[i].start == 0:
            setup = derive(key, _SETUP_STREAM)
            out[i].trump = below(setup, 0, 5)
            out[i].dealer = below(setup, 1, players)
        _begin_round(out[i], key, players)


@lean_kernel
def step(states, actions):
    """Bid or play a card."""
    for i in range(states.shape[0]):
        state = states[i]
        players = state.hands.shape[0]
        if state.bids[state.dealer] == NONE:
            state.bids[state.mover] = actions[i]
            state.mover = (state.mover + 1) % players
        else:
            _play(state, actions[i], players)


@lean_kernel
def _play(state, card, players):
    mover = state.mover
    bit = _ONE << np.uint64(card)
    state.hands[mover] ^= bit
    state.played |= bit
    if state.in_trick > 0 and suit_of(card) != suit_of(state.trick[0]):
        state.void[mover] |= 1 << suit_of(state.trick[0])
    state.trick[state.in_trick] = card
    state.in_trick += 1
    state.mover = (mover + 1) % players
    if state.in_trick == players:
        _take_trick(state, players)
        if state.hands[state.mover] == 0:
            _end_round(state, players)


@lean_kernel
def _take_trick(state, players):
    """Give the full trick to its winner, who leads the next; the mover is the one who led this one."""
    best = 0
    for k in range(1, players):
        same_suit = suit_of(state.trick[k]) == suit_of(state.trick[best])
        beats = state.trick[k] > state.trick[best] if same_suit else suit_of(state.trick[k]) == state.trump
        best = k if beats else best
    state.mover = (state.mover + best) % players
    state.won[state.mover] += 1
    state.in_trick = 0
    for k in range(players):
        state.trick[k] = NONE


@lean_kernel
def score(state, seat):
    """Return what `seat` scores in the round, when it is over."""
    return 10 + state.bids[seat] if state.won[seat] == state.bids[seat] else 0


@lean_kernel
def _end_round(state, players):
    for seat in range(players):
        state.totals[seat] += score(state, seat)
    state.round += 1
    if state.world or state.round == round_count(state.start, state.ones):
        state.over = 1
        return
    state.cards = cards_in_round(state.start, state.ones, state.round)
    state.trump = state.round % 5
    state.dealer = state.round % players
    _begin_round(state, state.key, players)


@lean_kernel
def forbidden_bid(state):
    """Return the bid that the dealer may not make (it may be out of range), or NONE for the other seats."""
    if state.mover != state.dealer:
        return NONE
    total = 1  # the dealer's own entry is NONE = -1
    for seat in range(state.bids.shape[0]):
        total += state.bids[seat]
    return max(state.cards - total, NONE)


@lean_kernel
def legal(states, offsets, actions):
    """List the bids, or the cards that follow suit where the mover can; nothing when the game is over."""
    n = 0
    offsets[0] = 0
    for i in range(states.shape[0]):
        state = states[i]
        if state.over:
            pass
        elif state.bids[state.dealer] == NONE:
            forbidden = forbidden_bid(state)
            for bid in range(state.cards + 1):
                actions[n] = bid
                n += bid != forbidden
        else:
            cards = playable(state)
            while cards:
                actions[n] = lowest_card(cards)
                cards &= cards - _ONE
                n += 1
        offsets[i + 1] = n


@lean_kernel
def playable(state):
    """Return the cards, a bit set, that the mover may play."""
    hand = state.hands[state.mover]
    if state.in_trick > 0:
        following = hand & SUIT_CARDS[suit_of(state.trick[0])]
        if following:
            return following
    return hand


@lean_kernel
def to_play(states, out):
    """Write the seats to move."""
    for i in range(states.shape[0]):
        out[i] = states[i].mover


@lean_kernel
def outcome(states, done, utility):
    """Write 2 * score / most - 1 of each seat: of the round, or of the match when all of it was played."""
    for i in range(states.shape[0]):
        state = states[i]
        done[i] = state.over != 0
        if not state.over:
            continue
        match = state.start > 0 and not state.world
        most = most_points(state.start, state.ones) if match else 10 + state.cards
        for seat in range(utility.shape[1]):
            utility[i, seat] = 2.0 * (state.totals[seat] if match else score(state, seat)) / most - 1.0


@lean_kernel
def age(states, out):
    """Write the moves played in the round."""
    for i in range(states.shape[0]):
        moves = count_cards(states[i].played)
        for seat in range(states[i].bids.shape[0]):
            moves += states[i].bids[seat] != NONE
        out[i] = moves


@lean_kernel
def replay(states, moves, scores):
    """Play `moves` int32 [n] from the one state of `states`; write the finished rounds' scores to `scores` [R, P]."""
    for k in range(moves.shape[0]):
        number = states[0].round
        for seat in range(scores.shape[1]):
            scores[number, seat] = -states[0].totals[seat]
        step(states, moves[k : k + 1])
        if states[0].round > number:
            for seat in range(scores.shape[1]):
                scores[number, seat] += states[0].totals[seat]


@lean_kernel
def dealt_order(key, number, out):
    """Write the cards of round `number` in dealing order to `out` int64 [C * P]."""
    left = ALL_CARDS
    for dealt in range(out.shape[0]):
        out[dealt] = deal(key, number, dealt, left)
        left ^= _ONE << np.uint64(out[dealt])
