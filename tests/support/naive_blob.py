"""Blob written the obvious way, from the rules alone: the slow twin of game/blob/rules.py and of the observation."""

from __future__ import annotations

from dataclasses import dataclass, field


def suit(card: int) -> int:
    return card // 13


def winner(trick: list[tuple[int, int]], trump: int) -> int:
    """Return the seat that takes the trick of (seat, card), the first one led."""
    led = suit(trick[0][1])
    trumps = [play for play in trick if suit(play[1]) == trump]
    return max(trumps or [play for play in trick if suit(play[1]) == led], key=lambda play: play[1])[0]


@dataclass
class NaiveRound:
    """One round, from the hands on."""

    hands: list[set[int]]
    trump: int
    dealer: int
    bids: dict[int, int] = field(default_factory=dict)
    won: dict[int, int] = field(default_factory=dict)
    trick: list[tuple[int, int]] = field(default_factory=list)
    tricks: list[list[tuple[int, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.players, self.cards = len(self.hands), len(self.hands[0])
        self.won = dict.fromkeys(range(self.players), 0)
        self.mover = (self.dealer + 1) % self.players

    def bidding(self) -> bool:
        return len(self.bids) < self.players

    def over(self) -> bool:
        return len(self.tricks) == self.cards

    def legal(self) -> list[int]:
        if self.over():
            return []
        if self.bidding():
            last = len(self.bids) == self.players - 1
            return [b for b in range(self.cards + 1) if not (last and sum(self.bids.values()) + b == self.cards)]
        hand = self.hands[self.mover]
        following = [card for card in hand if self.trick and suit(card) == suit(self.trick[0][1])]
        return sorted(following or hand)

    def step(self, action: int) -> None:
        if self.bidding():
            self.bids[self.mover] = action
            self.mover = (self.mover + 1) % self.players
            return
        self.hands[self.mover].remove(action)
        self.trick.append((self.mover, action))
        self.mover = (self.mover + 1) % self.players
        if len(self.trick) == self.players:
            self.mover = winner(self.trick, self.trump)
            self.won[self.mover] += 1
            self.tricks.append(self.trick)
            self.trick = []

    def scores(self) -> list[int]:
        return [10 + self.bids[p] if self.bids[p] == self.won[p] else 0 for p in range(self.players)]

    def voids(self) -> dict[int, set[int]]:
        """Return the suits that each seat has shown to lack, the current trick included."""
        shown: dict[int, set[int]] = {p: set() for p in range(self.players)}
        for trick in [*self.tricks, self.trick]:
            for seat, card in trick[1:]:
                if suit(card) != suit(trick[0][1]):
                    shown[seat].add(suit(trick[0][1]))
        return shown

    def played(self) -> set[int]:
        return {card for trick in [*self.tricks, self.trick] for _, card in trick}


def match_sizes(start: int, players: int) -> list[int]:
    """Return the cards of every round of a match: start .. 1, players further ones, 2 .. start."""
    return [*range(start, 0, -1), *[1] * players, *range(2, start + 1)]


def observation(play: NaiveRound, rotated: bool) -> list[float]:
    """Return the 256 numbers of a stand-alone round, as the rules file lists them; the trick's order as 1..8."""
    row, me, cards, players = [0.0] * 256, play.mover, play.cards, play.players
    hand = play.hands[me]
    for card in hand:
        row[card] = 1
    for k, (_, card) in enumerate(play.trick):
        row[52 + card] = k + 1
    for card in play.played():
        row[104 + card] = 1
    for k in range(players):
        seat = (me + k) % players if rotated else k
        row[156 + k] = play.bids[seat] / cards if seat in play.bids else -1
        row[164 + k] = play.won[seat] / cards
    row[172] = play.bids[me] / cards if me in play.bids else -1
    row[173] = play.won[me] / cards
    row[174:178] = [cards / 13, len(play.tricks) / cards, (me - play.dealer) % players / players, players / 8]
    if play.trump < 4:
        row[178 + play.trump] = 1
    row[182] = float(play.bidding() and me == play.dealer)
    row[183:185] = [float(play.bidding()), float(not play.bidding())]
    own_played = cards - len(hand)
    behind = (play.won[me] - play.bids[me]) / cards if me in play.bids else 0
    row[186:191] = [len(hand) / 13, own_played / 13, len(play.tricks) / cards, behind, len(play.trick) / players]
    by_suit = [[card % 13 for card in hand if suit(card) == s] for s in range(4)]
    trumps = by_suit[play.trump] if play.trump < 4 else []
    row[191:196] = [len(trumps) / 13, *(len(ranks) / 13 for ranks in by_suit)]
    row[196:200] = [1.0 if 12 in ranks else 0.5 if 11 in ranks else 0.0 for ranks in by_suit]
    row[200] = sum(trumps) / len(trumps) / 12 if trumps else 0.0
    row[201] = -1
    if play.bidding() and me == play.dealer and 0 <= cards - sum(play.bids.values()) <= cards:
        row[201] = (cards - sum(play.bids.values())) / cards
    return row
