"""What the tests of Blob share: rounds with chosen hands, as states and as the slow twin."""

from __future__ import annotations

import numpy as np

from grove.game.blob import Blob
from grove.game.blob.rules import NONE
from tests.support.naive_blob import NaiveRound


def bits(cards: set[int]) -> int:
    return sum(1 << card for card in cards)


def cards_of(mask: int) -> set[int]:
    return {card for card in range(52) if int(mask) >> card & 1}


def random_hands(rng: np.random.Generator, players: int, cards: int, deck: range = range(52)) -> list[set[int]]:
    order = rng.permutation(list(deck))[: players * cards]
    return [{int(card) for card in order[seat::players]} for seat in range(players)]


def start_state(game: Blob, hands: list[set[int]], trump: int, dealer: int) -> np.ndarray:
    """Return a state S [1] of a stand-alone round at its first bid."""
    state = np.zeros(1, game.state_dtype)
    game.initial(np.zeros(1, np.uint64), state)
    state["hands"][0] = [bits(hand) for hand in hands]
    state["trump"], state["dealer"], state["mover"] = trump, dealer, (dealer + 1) % game.num_players
    assert (state["bids"] == NONE).all()
    return state


def both(game: Blob, rng: np.random.Generator, trump: int | None = None) -> tuple[np.ndarray, NaiveRound]:
    """Return one random round as a state and as the twin."""
    hands = random_hands(rng, game.num_players, game.rounds[0])
    trump = int(rng.integers(5)) if trump is None else trump
    dealer = int(rng.integers(game.num_players))
    return start_state(game, hands, trump, dealer), NaiveRound([set(hand) for hand in hands], trump, dealer)


def legal_of(game: Blob, state: np.ndarray) -> list[int]:
    offsets, actions = np.zeros(2, np.int64), np.zeros(game.max_legal, np.int32)
    game.legal(state, offsets, actions)
    return actions[: offsets[1]].tolist()


def play(game: Blob, state: np.ndarray, twin: NaiveRound, action: int) -> None:
    game.step(state, np.array([action], np.int32))
    twin.step(action)


def scores_of(game: Blob, state: np.ndarray) -> list[int]:
    """Return the scores behind the utilities of a finished round."""
    done, utility = np.zeros(1, np.bool_), np.zeros((1, game.num_players))
    game.outcome(state, done, utility)
    assert done[0]
    points = (utility[0] + 1) / 2 * (10 + game.rounds[0])
    assert np.abs(points - points.round()).max() < 1e-9
    return [int(p) for p in points.round()]
