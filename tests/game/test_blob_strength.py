"""Determinized search plays Blob better than chance and better than one world does; rollouts value the leaves."""

from __future__ import annotations

import pytest

from grove.game import load_game
from tests.support.duel import RandomPlayer, SearchPlayer, duel, settings_of

SPEC = "blob:players=4,cards=3"
WORLDS, SIMULATIONS = 10, 60


@pytest.mark.parametrize(("against", "deals"), [("random", 60), ("one world", 300)])
def test_many_worlds_beat(against: str, deals: int) -> None:
    """Equal evaluations a decision for both; the 95 % interval must exclude equality."""
    game = load_game(SPEC)
    most = deals * game.num_players
    many = SearchPlayer(game, settings_of(WORLDS, SIMULATIONS, "decision"), most, 1)
    one = SearchPlayer(game, settings_of(1, SIMULATIONS, "decision"), most, 3)
    found = duel(game, deals, many, RandomPlayer(game, 2) if against == "random" else one)
    print(f"{WORLDS} worlds against {against}: {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]")
    assert found.low > 0


def test_equal_players_are_equal() -> None:
    """The measure itself favours nobody."""
    game = load_game(SPEC)
    found = duel(game, 300, RandomPlayer(game, 5), RandomPlayer(game, 6))
    assert found.low < 0 < found.high
