"""Connect Four and Hex: known truths, slow twins, symmetry facts, text."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.common.errors import SettingError
from grove.game import AdaptedGame, Game, canonical_spec, check, load_game
from tests.support.naive_games import NaiveConnectFour, NaiveHex, naive_hex
from tests.support.three_player import ThreePlayer


def start(game: Game, seed: int = 0) -> np.ndarray:
    states = np.empty(1, game.state_dtype)
    game.initial(np.array([seed], np.uint64), states)
    return states


def play(game: Game, moves: str) -> np.ndarray:
    """Return the state after `moves` (texts with spaces between)."""
    states = start(game)
    for text in moves.split():
        game.step(states, np.array([game.parse(text)], np.int32))
    return states


def outcome(game: Game, states: np.ndarray) -> list[float] | None:
    done, utility = np.empty(1, np.bool_), np.empty((1, game.num_players))
    game.outcome(states, done, utility)
    return utility[0].tolist() if done[0] else None


def legal(game: Game, states: np.ndarray) -> list[int]:
    offsets, actions = np.empty(2, np.int64), np.empty(game.max_legal, np.int32)
    game.legal(states, offsets, actions)
    return actions[: offsets[1]].tolist()


def observation(game: Game, states: np.ndarray) -> np.ndarray:
    rows = np.empty((1, *game.observation_shape), game.observation_dtype)
    game.observe(states, rows)
    return rows[0]


def seat(game: Game, states: np.ndarray) -> int:
    out = np.empty(1, np.int8)
    game.to_play(states, out)
    return int(out[0])


@pytest.mark.parametrize("spec", ["connect_four", *(f"hex:size={n}" for n in (2, 3, 5, 8, 11, 19))])
def test_built_in_games_keep_the_contract(spec: str) -> None:
    check(load_game(spec), games=10 if spec.endswith("19") else 50)


def test_three_player_game_keeps_the_contract() -> None:
    check(ThreePlayer())
    check(ThreePlayer(), games=200, seed=5)


TWINS = {"connect_four": NaiveConnectFour} | {f"hex:size={n}": naive_hex(n) for n in (2, 3, 4, 7, 11)}


@pytest.mark.parametrize("spec", TWINS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_slow_twin(spec: str, data: st.DataObject) -> None:
    game, twin = load_game(spec), TWINS[spec]()
    states = start(game)
    choices = data.draw(st.lists(st.integers(0, 1 << 20), min_size=game.max_moves, max_size=game.max_moves))
    for choice in choices:
        assert outcome(game, states) == twin.utility()
        if twin.utility() is not None:
            break
        assert legal(game, states) == twin.legal_actions()
        assert seat(game, states) == twin.to_play()
        assert observation(game, states).tolist() == twin.observe()
        action = twin.legal_actions()[choice % len(twin.legal_actions())]
        game.step(states, np.array([action], np.int32))
        twin.step(action)


@pytest.mark.parametrize(
    ("moves", "result"),
    [
        ("1 2 1 2 1 2 1", [1.0, -1.0]),  # column
        ("4 4 5 5 6 6 7", [1.0, -1.0]),  # row, at the right edge
        ("7 1 2 2 3 3 4 3 4 4 6 4", [-1.0, 1.0]),  # rising diagonal of the second seat
        ("1 2 3 4 4 3 2 1 1 2 3", None),
        ("5 6 7 1 2 3", None),  # 5 6 7 and 1 2 3 do not meet around the edge
    ],
)
def test_connect_four_lines(moves: str, result: list[float] | None) -> None:
    game = load_game("connect_four")
    assert outcome(game, play(game, moves)) == result


def test_connect_four_draw() -> None:
    game = load_game("connect_four")
    columns = "6 6 6 1 6 5 5 7 7 4 6 2 4 6 3 2 3 4 1 5 2 5 4 1 3 3 3 2 1 1 1 3 2 7 2 4 5 5 4 7 7"
    states = play(game, columns)
    assert outcome(game, states) is None
    game.step(states, np.array([6], np.int32))
    assert outcome(game, states) == [0.0, 0.0]
    assert legal(game, states) == []


def test_connect_four_text() -> None:
    game = load_game("connect_four")
    states = play(game, "4 4 5")
    assert game.render(states) == game.render(states[0])
    assert game.render(states).splitlines()[-3:] == [". . . O . . .", ". . . X X . .", "1 2 3 4 5 6 7"]
    for text in ("0", "8", "", "a", "44", "-1", "٣"):
        with pytest.raises(SettingError, match="column from 1 to 7"):
            game.parse(text)


def test_hex_text() -> None:
    game = load_game("hex:size=3")
    assert [game.parse(text) for text in ("a1", "b1", "a2", "C3 ")] == [0, 1, 3, 8]
    assert game.render(play(game, "a1 c2")).splitlines() == ["    a b c", "  1 B . .", "   2 . . R", "    3 . . ."]
    for text in ("d1", "a4", "a0", "1a", "a", "", "a" + "9" * 5000, "a²"):
        with pytest.raises(SettingError, match="a1 to c3"):
            game.parse(text)


@functools.cache
def first_seat_wins(size: int, moves: tuple[int, ...]) -> bool:
    """Return whether Blue wins the position after `moves` with best play (search over our own rules)."""
    game = load_game(f"hex:size={size}")
    states = start(game)
    for move in moves:
        game.step(states, np.array([move], np.int32))
    result = outcome(game, states)
    if result is not None:
        return result[0] > 0
    wins = (first_seat_wins(size, normal((*moves, action))) for action in legal(game, states))
    return any(wins) if len(moves) % 2 == 0 else all(wins)


def normal(moves: tuple[int, ...]) -> tuple[int, ...]:
    """Return the moves sorted by seat: another order of the same stones is the same position."""
    ordered: list[int] = [0] * len(moves)
    ordered[0::2], ordered[1::2] = sorted(moves[0::2]), sorted(moves[1::2])
    return tuple(ordered)


@pytest.mark.parametrize("size", [2, 3])
def test_first_player_wins_small_hex(size: int) -> None:
    assert first_seat_wins(size, ())


def hex_states(size: int, boards: int, rng: np.random.Generator) -> tuple[Game, np.ndarray, np.ndarray]:
    """Return random orders of all cells (int32 [boards, cells]) and start states."""
    game = load_game(f"hex:size={size}")
    states = np.empty(boards, game.state_dtype)
    game.initial(np.zeros(boards, np.uint64), states)
    return game, states, rng.permuted(np.tile(np.arange(size * size, dtype=np.int32), (boards, 1)), axis=1)


@pytest.mark.parametrize("size", [2, 3, 6, 11, 19])
def test_full_board_joins_exactly_one_side(size: int) -> None:
    """Fill boards to the last cell with a slow twin: one side is connected, and it is the side our rules let win."""
    game, states, orders = hex_states(size, 20, np.random.default_rng(size))
    done, utility = np.zeros(20, np.bool_), np.zeros((20, 2))
    final = np.zeros((20, 2))
    for ply in range(size * size):
        live = np.flatnonzero(~done)
        some = states[live]
        game.step(some, np.ascontiguousarray(orders[live, ply]))
        states[live] = some
        game.outcome(states, done, utility)
        final[live] = utility[live]
    for board in range(20):
        twin: NaiveHex = naive_hex(size)()
        for cell in orders[board].tolist():
            twin.step(cell)
        assert [twin.connected(0), twin.connected(1)].count(True) == 1
        assert done[board]
        assert final[board].tolist() == twin.utility()


@pytest.mark.parametrize("size", [3, 5, 9])
def test_transposing_and_exchanging_colours_swaps_the_winner(size: int) -> None:
    """Blue's stones on the transposed cells with the colours exchanged: Red then wins at the same ply."""
    rng = np.random.default_rng(7)
    swapped_wins = 0
    for _ in range(50):
        twin, image = naive_hex(size)(), naive_hex(size)()
        game = load_game(f"hex:size={size}")
        states = start(game)
        for cell in rng.permutation(size * size).tolist():
            game.step(states, np.array([cell], np.int32))
            twin.step(cell)
            image.stones = tuple({(c, r) for r, c in twin.stones[1 - s]} for s in (0, 1))
            result, turned = outcome(game, states), image.utility()
            assert (result is None) == (turned is None)
            if result is not None:
                assert result == turned[::-1]
                swapped_wins += 1
                break
    assert swapped_wins == 50


def test_hex_chain_flags_join_late() -> None:
    """A long loose chain that is joined to both edges only by the last stones."""
    game = load_game("hex:size=5")
    states = play(game, "c2 a1 c3 a2 c4 a3 c1 a4")
    assert outcome(game, states) is None
    game.step(states, np.array([game.parse("c5")], np.int32))
    assert outcome(game, states) == [1.0, -1.0]


@pytest.mark.parametrize("spec", ["connect_four", "hex:size=3", "hex:size=5"])
def test_adapter_equals_compiled(spec: str) -> None:
    """The slow twin behind the adapter gives what the compiled game gives, also when nearly nothing is cached."""
    game = load_game(spec)
    twin = AdaptedGame(TWINS.get(spec) or naive_hex(5), "twin", cached_objects=3)
    rng = np.random.default_rng(0)
    ours, theirs = (np.empty(8, g.state_dtype) for g in (game, twin))
    for g, states in ((game, ours), (twin, theirs)):
        g.initial(np.arange(8, dtype=np.uint64), states)
    for _ in range(game.max_moves):
        answers = [answer_all(g, states) for g, states in ((game, ours), (twin, theirs))]
        assert answers[0] == answers[1]
        live = [i for i, (result, *_) in enumerate(answers[0]) if result is None]
        ours, theirs = ours[live], theirs[live]
        moves = np.array([rng.choice(answers[0][i][1]) for i in live], np.int32)
        game.step(ours, moves)
        twin.step(theirs, moves)
    assert not len(ours) or all(result is not None for result, *_ in answer_all(game, ours))


def answer_all(game: Game, states: np.ndarray) -> list[tuple]:
    """Return outcome, legal actions, seat and row of every state; only the outcome where it is over."""
    answers: list[tuple] = []
    for i in range(len(states)):
        one = states[i : i + 1].copy()
        result = outcome(game, one)
        more = (legal(game, one), seat(game, one), observation(game, one).tolist()) if result is None else ()
        answers.append((result, *more))
    return answers


@pytest.mark.parametrize("spec", ["connect_four", "hex"])
def test_name_is_the_canonical_spec(spec: str) -> None:
    assert canonical_spec(canonical_spec(spec)) == load_game(spec).name
