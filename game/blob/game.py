"""Blob: a trick-taking card game for 3 to 8 players, a form of Oh Hell, with hidden hands.

A round: C cards each of 52; everyone bids once how many tricks to take, the dealer last and never so that the bids add
up to C; then C tricks, following suit where possible; who takes exactly the bid scores 10 + bid, all others nothing.
A match is a sequence of rounds with scores added up: C, C-1, ..., 2 cards, then players + 1 rounds of one card, then
2, ..., C. A round equals one of OpenSpiel's `oh_hell` with `off_bid_penalty=true,points_per_trick=1`, except that its
scores below 0 are 0 here. The rules are in blob_rules.py, the rows of the network in blob_rows.py, worlds in
blob_worlds.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from grove.common.errors import SettingError
from grove.game.blob.rows import ROW, observe_rotated, observe_source
from grove.game.blob.rules import (
    NONE,
    age,
    cards_in_round,
    dealt_order,
    legal,
    outcome,
    replay,
    round_count,
    start_games,
    state_dtype,
    step,
    to_play,
)
from grove.game.blob.text import parse_action, render_card, render_state
from grove.game.blob.worlds import determinize
from grove.game.contract import Symmetry

DECK = 52
MIN_PLAYERS, MAX_PLAYERS = 3, 8


class Blob:
    """Blob as a :class:`grove.game.contract.Game`: a round (``blob:players=4,cards=5``) or a match
    (``players=5,match=7``).

    Hidden: the other hands and the cards not dealt. In a match the search sees the current round alone.
    """

    num_actions = DECK
    observation_shape: tuple[int, ...] = (ROW,)
    observation_dtype: np.dtype[Any] = np.dtype(np.int8)
    zero_sum = False
    symmetries: tuple[Symmetry, ...] | None = None
    compiled = True
    hidden_information = True

    step = staticmethod(step)
    legal = staticmethod(legal)
    to_play = staticmethod(to_play)
    outcome = staticmethod(outcome)
    determinize = staticmethod(determinize)
    age = staticmethod(age)

    def __init__(
        self,
        players: int = 4,
        cards: int = 0,
        match: int = 0,
        ones: int = 0,
        layout: Literal["rotated", "source"] = "rotated",
    ) -> None:
        """Set up a round of `cards` cards (default 5), or a match whose rounds begin and end with `match` cards.

        Args:
            players: seats, 3 to 8.
            cards: of a stand-alone round.
            match: cards of a match's first and last round; excludes `cards`.
            ones: rounds of one card in a row in the middle of a match; 0 = players + 1, as the source plays it.
            layout: `rotated` observations name seats from the mover on; `source` by their numbers, for comparison.

        Raises:
            SettingError: a value out of range, or more cards than the deck has.
        """
        if cards and match:
            raise SettingError.of("blob match", match, "a game is one round of `cards` or a match", "give one of them")
        if ones and not match:
            raise SettingError.of("blob ones", ones, "it is a setting of a match", "add match=7")
        _check("blob players", players, MIN_PLAYERS, MAX_PLAYERS, "write e.g. blob:players=4,cards=5")
        cards = cards if cards or match else 5
        what = "match" if match else "cards"
        most = DECK // players
        _check(f"blob {what}", match or cards, 1, most, f"{players} players share 52 cards; write e.g. {what}={most}")
        _check("blob ones", ones, 0, 100, "leave it out for players + 1")
        self.num_players = players
        self.start, self.ones = match, ones or (players + 1 if match else 0)
        sizes = [int(cards_in_round(match, self.ones, r)) for r in range(int(round_count(match, self.ones)))]
        self.rounds = sizes if match else [cards]
        self.max_legal = max(self.rounds) + 1
        self.max_moves = sum(players + players * size for size in self.rounds)
        self.units: Mapping[str, int] = {"matches": 1, "rounds": len(sizes)} if match else {"rounds": 1}
        self.observe = observe_source if layout == "source" else observe_rotated
        self.name = f"blob:players={players},{what}={match or cards}"
        self.name += f",ones={ones}" if ones not in (0, players + 1) else ""
        self.name += ",layout=source" if layout == "source" else ""
        self.state_dtype: np.dtype[Any] = state_dtype(players)

    def initial(self, seeds: NDArray[np.uint64], out: NDArray[Any]) -> None:
        """See the contract."""
        template = np.zeros((), self.state_dtype)
        template["cards"], template["start"], template["ones"] = self.rounds[0], self.start, self.ones
        out[...] = template
        start_games(seeds, out)

    def annotate(self, seed: int, moves: list[int]) -> dict[str, Any]:
        """Return `setup` and `scores`, a list of such per finished round in a match.

        `setup` holds `trump` (0..3 the suits, 4 none), `dealer` and `hands`, cards in the order they were dealt;
        `scores` one number per seat (None for a round that was not finished).
        """
        states = np.zeros(1, self.state_dtype)
        self.initial(np.array([seed], np.uint64), states)
        scores = np.zeros((len(self.rounds), self.num_players), np.int16)
        trump, dealer = int(states[0]["trump"]), int(states[0]["dealer"])
        replay(states, np.array(moves, np.int32), scores)
        finished = int(states[0]["round"])
        if not self.start:
            setup = {"trump": trump, "dealer": dealer, "hands": self._hands(seed, 0)}
            return {"setup": setup, "scores": scores[0].tolist() if finished else None}
        begun = min(finished + 1, len(self.rounds))
        setups = [
            {"trump": r % 5, "dealer": r % self.num_players, "hands": self._hands(seed, r)} for r in range(begun)
        ]
        return {"setup": setups, "scores": scores[:finished].tolist()}

    def _hands(self, seed: int, number: int) -> list[list[int]]:
        order = np.zeros(self.rounds[number] * self.num_players, np.int64)
        dealt_order(np.uint64(seed), number, order)
        return [order[seat :: self.num_players].tolist() for seat in range(self.num_players)]

    def parse(self, text: str) -> int:
        """Return the action of a card such as ``SA`` or ``h10``, of a bid such as ``bid 3``, or of both."""
        return parse_action(text)

    def render_action(self, action: int) -> str:
        """Return the card, and the bid that has the same number."""
        card = render_card(action)
        return f"{card}/bid {action}" if action <= max(self.rounds) else card

    def render_move(self, state: NDArray[Any], action: int) -> str:
        """Return the bid, or the card."""
        fields = state.reshape(-1)[0]
        return f"bid {action}" if fields["bids"][fields["dealer"]] == NONE else render_card(action)

    def render(self, state: NDArray[Any]) -> str:
        """Return trump, bids, tricks and hands as text, a line per seat."""
        return render_state(state.reshape(-1)[0])


def _check(name: str, value: int, low: int, high: int, remedy: str) -> None:
    if not low <= value <= high:
        raise SettingError.of(name, value, f"it must be {low} to {high}", remedy)
