"""Blob's cards, bids and positions as text."""

from __future__ import annotations

from typing import Any

from grove.common.errors import SettingError

SUITS, RANKS = "SHCD", "23456789TJQKA"
_TRUMPS = ("spades", "hearts", "clubs", "diamonds", "no trump")


def render_card(card: int) -> str:
    """Return suit and rank of a card 0..51, e.g. ``SA`` for the ace of spades."""
    return SUITS[card // 13] + RANKS[card % 13]


def parse_action(text: str) -> int:
    """Return the action of a card such as ``SA`` or ``h10``, a bid such as ``bid 3``, or both; else SettingError."""
    found = {_parse_one(part.strip().upper()) for part in text.split("/")}
    action = found.pop()
    if found or action is None:
        raise SettingError.of("move", text, "it must be a bid or a card", 'write e.g. "bid 3", SA or H10')
    return action


def _parse_one(text: str) -> int | None:
    if text.startswith("BID "):
        digits = text[4:].strip()
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 3 and int(digits) < 52 else None
    suit, rank = text[:1], text[1:].replace("10", "T")
    if suit and suit in SUITS and len(rank) == 1 and rank in RANKS:
        return 13 * SUITS.index(suit) + RANKS.index(rank)
    return None


def render_state(fields: Any) -> str:
    """Return the position in one record of the state dtype as lines: the round, the trick, and each seat."""
    players = len(fields["hands"])
    mover, in_trick = int(fields["mover"]), int(fields["in_trick"])
    head = f"trump {_TRUMPS[fields['trump']]}, dealer {fields['dealer']}, {fields['cards']} cards"
    if fields["start"]:
        head = f"round {fields['round'] - fields['over']}: {head}"
    leader = (mover - in_trick) % players
    trick = " ".join(render_card(int(card)) for card in fields["trick"][:in_trick])
    lines = [head, f"trick led by player {leader}: {trick}" if trick else "no card on the table"]
    for seat in range(players):
        turn = "->" if seat == mover and not fields["over"] else "  "
        bid = "-" if fields["bids"][seat] < 0 else str(fields["bids"][seat])
        score = f"  score {fields['totals'][seat]:3d}" if fields["start"] or fields["over"] else ""
        hand = _cards(int(fields["hands"][seat]))
        lines.append(f"{turn} player {seat}  bid {bid:>2}  tricks {fields['won'][seat]:2d}{score}  {hand}".rstrip())
    return "\n".join(lines)


def _cards(cards: int) -> str:
    return " ".join(render_card(card) for card in range(52) if cards >> card & 1)
