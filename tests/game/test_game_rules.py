"""Connect Four and Hex: slow twins, known truths, text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.common.errors import SettingError
from grove.game import AdaptedGame, Game, check, load_game
from tests.support.naive_games import NaiveConnectFour, NaiveHex, naive_hex
from tests.support.positions import legal_actions, line, mover, observation, played, result, start


@pytest.mark.parametrize("spec", ["connect_four", *(f"hex:size={n}" for n in (2, 3, 5, 8, 11, 19))])
def test_built_in_games_keep_the_contract(spec: str) -> None:
    check(load_game(spec), games=10 if spec.endswith("19") else 50)


@pytest.mark.parametrize("spec", ["tests.support.one_player:Stairs", "tests.support.three_player:Ring"])
def test_games_for_other_numbers_of_players_keep_the_contract(spec: str) -> None:
    check(load_game(spec), seed=5)


TWINS = {"connect_four": NaiveConnectFour} | {f"hex:size={n}": naive_hex(n) for n in (2, 3, 4, 5, 7, 11)}


@pytest.mark.parametrize("spec", TWINS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_slow_twin(spec: str, data: st.DataObject) -> None:
    game, twin = load_game(spec), TWINS[spec]()
    state = start(game)
    choices = data.draw(st.lists(st.integers(0, 1 << 20), min_size=game.max_moves, max_size=game.max_moves))
    for choice in choices:
        assert result(game, state) == twin.utility()
        if twin.utility() is not None:
            break
        assert legal_actions(game, state) == twin.legal_actions()
        assert mover(game, state) == twin.to_play()
        assert observation(game, state).tolist() == twin.observe()
        action = twin.legal_actions()[choice % len(twin.legal_actions())]
        state = played(game, state, action)
        twin.step(action)


@pytest.mark.parametrize("spec", ["connect_four", "hex:size=3", "hex:size=5"])
def test_adapter_equals_compiled(spec: str) -> None:
    """The slow twin behind the adapter gives what the compiled game gives, also when nearly nothing is cached."""
    games = load_game(spec), AdaptedGame(TWINS[spec], "twin", cached_objects=3)
    rng, batches = np.random.default_rng(0), [np.empty(8, game.state_dtype) for game in games]
    for game, states in zip(games, batches, strict=True):
        game.initial(np.arange(8, dtype=np.uint64), states)
    for _ in range(games[0].max_moves + 1):
        ours, theirs = (answers(game, states) for game, states in zip(games, batches, strict=True))
        assert ours == theirs
        live = [i for i, answer in enumerate(ours) if answer[0] is None]
        batches = [states[live] for states in batches]
        moves = np.array([rng.choice(ours[i][1]) for i in live], np.int32)
        for game, states in zip(games, batches, strict=True):
            game.step(states, moves)
    assert len(batches[0]) == 0


def answers(game: Game, states: np.ndarray) -> list[tuple]:
    """Return outcome, legal actions, seat and row of every state; only the outcome where it is over."""
    found: list[tuple] = []
    for i in range(len(states)):
        one = states[i : i + 1].copy()
        more = (legal_actions(game, one), mover(game, one), observation(game, one).tolist())
        found.append((None, *more) if result(game, one) is None else (result(game, one),))
    return found


# -- Connect Four ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moves", "utilities"),
    [
        ("1 2 1 2 1 2 1", [1.0, -1.0]),  # column
        ("4 4 5 5 6 6 7", [1.0, -1.0]),  # row, at the right edge
        ("7 1 2 2 3 3 4 3 4 4 6 4", [-1.0, 1.0]),  # rising diagonal of the second seat
        ("1 2 3 4 4 3 2 1 1 2 3", None),
        ("5 6 7 1 2 3", None),  # 5 6 7 and 1 2 3 do not meet around the edge
    ],
)
def test_connect_four_lines(moves: str, utilities: list[float] | None) -> None:
    game = load_game("connect_four")
    assert result(game, line(game, moves)) == utilities


def test_connect_four_draw() -> None:
    game = load_game("connect_four")
    state = line(game, "6 6 6 1 6 5 5 7 7 4 6 2 4 6 3 2 3 4 1 5 2 5 4 1 3 3 3 2 1 1 1 3 2 7 2 4 5 5 4 7 7")
    assert result(game, state) is None
    state = played(game, state, 6)
    assert result(game, state) == [0.0, 0.0]
    assert legal_actions(game, state) == []


def test_connect_four_text() -> None:
    game = load_game("connect_four")
    assert game.render(line(game, "4 4 5")).splitlines()[-3:] == [". . . O . . .", ". . . X X . .", "1 2 3 4 5 6 7"]
    for text in ("0", "8", "", "a", "44", "-1", "٣"):
        with pytest.raises(SettingError, match="column from 1 to 7"):
            game.parse(text)


# -- Hex -------------------------------------------------------------------------------------------------------------


def test_hex_text() -> None:
    game = load_game("hex:size=3")
    assert [game.parse(text) for text in ("a1", "b1", "a2", "C3 ")] == [0, 1, 3, 8]
    assert game.render(line(game, "a1 c2")).splitlines() == ["    a b c", "  1 B . .", "   2 . . R", "    3 . . ."]
    for text in ("d1", "a4", "a0", "1a", "a", "", "a" + "9" * 5000, "a²"):
        with pytest.raises(SettingError, match="a1 to c3"):
            game.parse(text)


@pytest.mark.parametrize("size", [2, 3, 6, 11, 19])
def test_full_board_joins_exactly_one_side(size: int) -> None:
    """Fill boards to the last cell with a slow twin: one side is connected, and it is the side our rules let win."""
    game, rng = load_game(f"hex:size={size}"), np.random.default_rng(size)
    for _ in range(20):
        twin: NaiveHex = naive_hex(size)()
        state, final = start(game), None
        for cell in rng.permutation(size * size).tolist():
            if final is None:
                state = played(game, state, cell)
                final = result(game, state)
            twin.step(cell)
        assert [twin.connected(0), twin.connected(1)].count(True) == 1
        assert final == twin.utility()
