"""Our rules against OpenSpiel's: legal sets, mover, end and returns after every ply of random games."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyspiel
import pytest

from grove.game import Game, load_game
from tests.support.naive_games import naive_hex

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


def successors(game: Game, states: np.ndarray, theirs: list[Any]) -> tuple[np.ndarray, list[Any]]:
    """Return all positions one move on, each once; two orders of the same moves lead to equal bytes."""
    done, _, _, offsets, actions = ask(game, states)
    parents = np.repeat(np.arange(len(states)), np.where(done, 0, np.diff(offsets)))
    moves = np.concatenate([actions[offsets[i] : offsets[i + 1]] for i in range(len(states)) if not done[i]] or [[]])
    after = states[parents]
    game.step(after, moves.astype(np.int32))
    keys = after.view(f"V{after.dtype.itemsize}")
    _, first = np.unique(keys, return_index=True)
    return after[first], [theirs[parents[i]].child(int(moves[i])) for i in first]


def count_undecided(size: int) -> int:
    """Count the colourings in turn order where neither seat is connected: all can be reached, as stones only join."""
    count, twin = 0, naive_hex(size)()
    for colours in itertools.product((None, 0, 1), repeat=size * size):
        if colours.count(0) - colours.count(1) in (0, 1):
            twin.stones = tuple({divmod(i, size) for i, c in enumerate(colours) if c == seat} for seat in (0, 1))
            count += twin.utility() is None
    return count


@pytest.mark.parametrize("size", [2, 3])
def test_full_hex_trees_agree(size: int) -> None:
    game, reference = load_game(f"hex:size={size}"), pyspiel.load_game(f"hex(board_size={size})")
    states = np.empty(1, game.state_dtype)
    game.initial(np.zeros(1, np.uint64), states)
    theirs, undecided = [reference.new_initial_state()], 0
    while len(states):
        answers = ask(game, states)
        compare_ply(theirs, answers)
        undecided += int((~answers[0]).sum())
        states, theirs = successors(game, states, theirs)
    assert undecided == count_undecided(size)
