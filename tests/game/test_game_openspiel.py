"""Our rules against OpenSpiel's: legal sets, mover, end and returns after every ply of random games."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyspiel
import pytest

from grove.game import Game, load_game

GAMES = 2000
SPECS = {"connect_four": "connect_four"} | {f"hex:size={n}": f"hex(board_size={n})" for n in (2, 3, 5, 7, 11, 13)}


def ask(game: Game, states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return done, utility, mover, legal offsets and legal actions of a batch."""
    size = len(states)
    done, utility = np.empty(size, np.bool_), np.empty((size, game.num_players))
    mover, offsets = np.empty(size, np.int8), np.empty(size + 1, np.int64)
    actions = np.empty(size * game.max_legal, np.int32)
    game.outcome(states, done, utility)
    game.to_play(states, mover)
    game.legal(states, offsets, actions)
    return done, utility, mover, offsets, actions


def compare_ply(theirs: list[Any], answers: tuple[np.ndarray, ...]) -> None:
    """Assert that both sides say the same about every position of the batch."""
    done, utility, mover, offsets, actions = answers
    assert [state.is_terminal() for state in theirs] == done.tolist()
    ends, seats, legal = offsets.tolist(), mover.tolist(), actions[: offsets[-1]].tolist()
    returns = (utility * done[:, np.newaxis]).tolist()
    for i, state in enumerate(theirs):
        assert state.returns() == returns[i]
        if not done[i]:
            assert state.current_player() == seats[i]
            assert state.legal_actions() == legal[ends[i] : ends[i + 1]]


@pytest.mark.parametrize("spec", SPECS)
def test_random_games_agree(spec: str) -> None:
    game, reference = load_game(spec), pyspiel.load_game(SPECS[spec])
    rng = np.random.default_rng(1)
    theirs = [reference.new_initial_state() for _ in range(GAMES)]
    states = np.empty(GAMES, game.state_dtype)
    game.initial(np.arange(GAMES, dtype=np.uint64), states)
    while len(states):
        answers = ask(game, states)
        compare_ply(theirs, answers)
        done, _, _, offsets, actions = answers
        going = np.flatnonzero(~done)
        first, count = offsets[going], offsets[going + 1] - offsets[going]
        chosen = actions[first + rng.integers(0, count)] if len(going) else np.empty(0, np.int32)
        theirs, states = [theirs[i] for i in going], states[going]
        game.step(states, chosen)
        for state, action in zip(theirs, chosen.tolist(), strict=True):
            state.apply_action(action)
