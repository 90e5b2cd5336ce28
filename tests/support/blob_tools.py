"""What the tests of Blob share: rounds with chosen hands, as states and as the slow twin."""

from __future__ import annotations

import numpy as np

from grove.game.blob import Blob
from tests.support.naive_blob import NaiveRound
from tests.support.positions import result, start


def bits(cards: set[int]) -> int:
    return sum(1 << card for card in cards)


def cards_of(mask: int) -> set[int]:
    return {card for card in range(52) if int(mask) >> card & 1}


def start_state(game: Blob, hands: list[set[int]], trump: int, dealer: int) -> np.ndarray:
    """Return a state S [1] of a stand-alone round at its first bid."""
    state = start(game)
    state["hands"][0] = [bits(hand) for hand in hands]
    state["trump"], state["dealer"], state["mover"] = trump, dealer, (dealer + 1) % game.num_players
    return state


def both(game: Blob, rng: np.random.Generator, trump: int | None = None) -> tuple[np.ndarray, NaiveRound]:
    """Return one random round as a state and as the twin."""
    order = rng.permutation(52)[: game.num_players * game.rounds[0]].tolist()
    hands = [set(order[seat :: game.num_players]) for seat in range(game.num_players)]
    trump = int(rng.integers(5)) if trump is None else trump
    dealer = int(rng.integers(game.num_players))
    return start_state(game, hands, trump, dealer), NaiveRound([set(hand) for hand in hands], trump, dealer)


def play(game: Blob, state: np.ndarray, twin: NaiveRound, action: int) -> None:
    """Play the action in both."""
    game.step(state, np.array([action], np.int32))
    twin.step(action)


def scores_of(game: Blob, state: np.ndarray) -> list[int]:
    """Return the scores behind the utilities of a finished round."""
    utilities = result(game, state)
    assert utilities is not None
    points = (np.array(utilities) + 1) / 2 * (10 + game.rounds[0])
    assert np.abs(points - points.round()).max() < 1e-9
    return [int(p) for p in points.round()]


def replay(setup: dict, moves: list[int]) -> NaiveRound:
    """Return the round of a record's `setup` after as many of `moves` as it takes, which are removed."""
    twin = NaiveRound([set(hand) for hand in setup["hands"]], setup["trump"], setup["dealer"])
    while not twin.over():
        action = moves.pop(0)
        assert action in twin.legal()
        twin.step(action)
    return twin
