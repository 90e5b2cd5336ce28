"""A recorded game replayed as text, and records that do not fit the rules."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from grove.commands.show import find_game, show_game
from grove.common.errors import RecordError, SettingError
from grove.game.contract import Game
from grove.game.registry import load_game
from grove.records.log import GameLog
from grove.records.record import GameRecord


def play(game: Game, index: int = 3, seed: int = 5) -> GameRecord:
    """Return the record of a random game with made-up visits and values."""
    rng = np.random.default_rng(seed)
    state = np.zeros(1, game.state_dtype)
    game.initial(np.array([seed], np.uint64), state)
    moves: list[int] = []
    visits: list[list[list[int]] | None] = []
    done, utility = np.zeros(1, np.bool_), np.zeros((1, game.num_players))
    while not done[0]:
        offsets, actions = np.zeros(2, np.int64), np.zeros(game.max_legal, np.int32)
        game.legal(state, offsets, actions)
        legal = actions[: offsets[1]]
        moves.append(int(rng.choice(legal)))
        visits.append([[int(a), 10 if a == moves[-1] else 1] for a in legal] if len(legal) > 1 else None)
        game.step(state, np.array(moves[-1:], np.int32))
        game.outcome(state, done, utility)
    return GameRecord(
        game=game.name,
        index=index,
        seed=seed,
        moves=moves,
        visits=visits,
        values=[None if pairs is None else [0.25, -0.25, *[0.5] * (game.num_players - 2)] for pairs in visits],
        models=[None if pairs is None else "0123456789abcdef" for pairs in visits],
        utilities=utility[0].tolist(),
        status="finished",
        seconds=2.0,
        extra=game.annotate(seed, moves),
    )


def shown(record: GameRecord, game: Game) -> str:
    out = io.StringIO()
    show_game(record, game, out)
    return out.getvalue()


@pytest.fixture(scope="module")
def connect_four() -> Game:
    return load_game("connect_four")


@pytest.mark.parametrize("spec", ["connect_four", "hex:size=4"])
def test_replay_shows_every_position_and_the_search(spec: str) -> None:
    game = load_game(spec)
    record = play(game)
    text = shown(record, game)
    start = np.zeros(1, game.state_dtype)
    game.initial(np.array([record.seed], np.uint64), start)
    assert game.render(start) in text
    lines = [line for line in text.splitlines() if " plays " in line]
    assert len(lines) == len(record.moves)
    assert lines[0].startswith(f"1. player 0 plays {game.render_action(record.moves[0])}   value +0.25   visits ")
    assert "value -0.25" in lines[1]
    assert f"visits {game.render_action(record.moves[0])} " in lines[0]
    assert "more" in lines[0]
    assert text.endswith("(the replay agrees)\n")


def test_a_round_of_many_players() -> None:
    game = load_game("blob:players=8,cards=3")
    record = play(game)
    text = shown(record, game)
    assert text.startswith(f"game 3 of {game.name} (1 round), 32 moves, 2.0 s\n")
    moves = [line for line in text.splitlines() if " plays " in line]
    assert len(moves) == len(record.moves)
    assert " plays bid " in moves[0]
    assert "values 0:+0.25 1:-0.25 2:+0.50 3:+0.50" in moves[0]
    assert moves[-1].endswith("forced")
    assert max(map(len, moves)) <= 160
    assert text.splitlines()[-2].startswith(f"scores: player 0 {record.extra['scores'][0]}, ")
    out = io.StringIO()
    show_game(record, game, out, "all")
    assert out.getvalue().count("trump ") == len(moves) + 1
    assert text.count("trump ") == 2


def test_rounds_of_a_match_are_told_apart() -> None:
    game = load_game("blob:players=3,match=2")
    record = play(game)
    text, scores = shown(record, game), record.extra["scores"]
    assert "(1 match, 6 rounds)" in text.splitlines()[0]
    heads = [line.split()[1:5] for line in text.splitlines() if line.startswith("====")]
    assert heads == [["round", str(number), "of", "6"] for number in range(6)]
    points = [line for line in text.splitlines() if line.startswith("points: ")]
    assert points == [f"points: player 0 {a}, player 1 {b}, player 2 {c}" for a, b, c in scores]
    sums = [sum(seat) for seat in zip(*scores, strict=True)]
    assert f"scores: player 0 {sums[0]}, player 1 {sums[1]}, player 2 {sums[2]}\n" in text


@pytest.mark.parametrize(("key", "other"), [("setup", "other"), ("scores", 5), ("scores", [[5]])])
def test_annotations_that_do_not_fit_the_moves(key: str, other: object) -> None:
    game = load_game("blob:players=3,match=2")
    record = play(game)
    with pytest.raises(RecordError, match=f"has the {key} {re.escape(str(other))}, but its replay gives"):
        shown(replace(record, extra=record.extra | {key: other}), game)


def test_forced_move_and_early_end(connect_four: Game) -> None:
    record = play(connect_four)
    two = {"moves": record.moves[:2], "visits": [None, record.visits[1]], "values": [None, [0.5, -0.5]]}
    text = shown(replace(record, **two, models=[None, None], utilities=[0.0, 0.0], status="timeout"), connect_four)
    assert "forced\n" in text
    assert "(timeout before the rules decided)" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"game": "hex:size=4"}, "of hex:size=4"),
        ({"moves": [0] * 9}, "move 7, action 0 is not legal"),
        ({"moves": [99]}, "move 1, action 99 is not legal"),
        ({"moves": [0, 1, 0, 1, 0, 1, 0, 1]}, "move 8, the game is over already"),
        ({"utilities": [0.5, -0.5]}, "has the result"),
        ({"status": "resigned"}, "recorded as resigned, but after its moves it is over"),
        ({"moves": [0, 1]}, "recorded as finished, but after its moves it is not over"),
        ({"moves": [0], "visits": [[[0, 5], [99, 5]]]}, "move 1, action 99 is not legal"),
        ({"moves": [0], "visits": ["many"]}, "visits"),
        ({"moves": [0], "values": [[7.0, 0.0]]}, "values"),
    ],
)
def test_record_that_does_not_fit_the_rules(connect_four: Game, change: dict[str, Any], words: str) -> None:
    record = play(connect_four)
    plies = len(change.get("moves", record.moves))
    lists: dict[str, Any] = {name: [None] * plies for name in ("visits", "values", "models")}
    with pytest.raises(RecordError, match=words):
        shown(replace(record, **lists | change), connect_four)


def test_find_game_in_a_folder(tmp_path: Path, connect_four: Game) -> None:
    with pytest.raises(SettingError, match="no finished game"):
        find_game(tmp_path, 0)
    with GameLog(tmp_path / "w0.jsonl") as log:
        for index in (2, 4):
            log.append(play(connect_four, index, seed=index))
    found = find_game(tmp_path, 4)
    assert (found.index, found.seed) == (4, 4)
    assert "agrees" in shown(found, connect_four)
    with pytest.raises(SettingError, match="holds 2 other games"):
        find_game(tmp_path, 3)
