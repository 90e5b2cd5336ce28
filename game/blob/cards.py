"""Sets of the 52 cards as uint64 bit sets, for kernels."""

from __future__ import annotations

import numpy as np

from grove.common.kernels import lean_kernel

ALL_CARDS = np.uint64((1 << 52) - 1)
SUIT_CARDS = np.array([0x1FFF << 13 * suit for suit in range(4)], np.uint64)
"""The thirteen cards of each suit."""

_ONE = np.uint64(1)
_S1, _S2, _S4, _S56, _S58 = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56), np.uint64(58)
_PAIRS, _NIBBLES = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_BYTES, _SUM = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT_AT = np.zeros(64, np.int64)
_BIT_AT[[((1 << bit) * 0x03F79D71B4CB0A89 >> 58) & 63 for bit in range(64)]] = range(64)


@lean_kernel
def count_cards(cards):  # uint64 -> int64
    """Return how many cards the set holds (Knuth, The Art of Computer Programming 4A, 7.1.3, eq. 62)."""
    pairs = cards - ((cards >> _S1) & _PAIRS)
    nibbles = (pairs & _NIBBLES) + ((pairs >> _S2) & _NIBBLES)
    return np.int64((((nibbles + (nibbles >> _S4)) & _BYTES) * _SUM) >> _S56)


@lean_kernel
def lowest_card(cards):  # uint64 -> int64
    """Return the lowest card of a set that is not empty (de Bruijn sequence; same source, 7.1.3)."""
    return _BIT_AT[((cards & (~cards + _ONE)) * _DE_BRUIJN) >> _S58]


@lean_kernel
def card_at(cards, place):  # uint64, int64 -> int64
    """Return the card number `place` (from 0) of a set in ascending order."""
    for _ in range(place):
        cards &= cards - _ONE
    return lowest_card(cards)


@lean_kernel
def suit_of(card):
    """Return the suit 0..3 of a card 0..51."""
    return (card * 79) >> 10
