"""`grove show`: a recorded game replayed as text, with what the search thought of every move."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import tyro
from numpy.typing import NDArray

from grove.common.errors import SettingError
from grove.common.words import plural, singular
from grove.game import Game
from grove.records.files import Problem
from grove.records.record import GameRecord, check_record, read_folder
from grove.records.replay import replay, rules_of

_TOP_MOVES = 4

Positions = Literal["auto", "all", "rounds"]


def find_game(games: Path, index: int) -> GameRecord:
    """Return game `index` from the logs in the folder `games`. Raises SettingError when it is not there."""
    problems: list[Problem] = []
    count = 0
    for record in read_folder(games, problems):
        if record.index == index:
            return record
        count += 1
    if not count:
        raise SettingError(f"{games} holds no finished game yet; give a run folder that has played some")
    unread = f" ({plural(len(problems), 'lines')} damaged)" if problems else ""
    others = plural(count, "other games")
    raise SettingError.of("game", index, f"{games} holds {others}{unread}", "give the index of one of them")


def show_game(record: GameRecord, game: Game, out: TextIO, positions: Positions = "auto") -> None:
    """Replay `record` by the rules of `game` and write what was played and what the search made of it to `out`.

    Raises RecordError when the record holds what none can, or does not fit the rules: another game, an illegal move,
    moves after the end or missing at it, another result, other scores.
    """
    check_record(record)
    every = positions == "all" or (positions == "auto" and game.num_players <= 2)
    states, rounds, began = replay(record, game), 0, 0
    out.write(f"{_head(record, game)}\n\n")
    for ply, state in enumerate(states):
        if ply == len(record.moves):
            out.write(f"{'' if every else chr(10)}{game.render(state)}\n\n")
            break
        if ply == 0 or _round_begins(game, state):
            out.write(_round_head(record, game, rounds))
            rounds, began = rounds + 1, ply
            out.write(f"{game.render(state)}\n\n")
        elif every:
            out.write(f"{game.render(state)}\n\n")
        elif (ply - began) % game.num_players == 0:  # everyone has had a turn: in a card game, a trick is over
            out.write("\n")
        out.write(f"{_move_line(record, game, ply, state)}\n")
    out.write(f"{_score_lines(record, game, rounds)}{_result_line(record)}\n")


def _head(record: GameRecord, game: Game) -> str:
    counts = ", ".join(plural(n, unit) for unit, n in game.units.items() if unit != "games")
    what = f" ({counts})" if counts else ""
    return f"game {record.index} of {record.game}{what}, {len(record.moves)} moves, {record.seconds:.1f} s"


def _round_begins(game: Game, state: NDArray[Any]) -> bool:
    """Return whether a game that is made of rounds is at the start of one."""
    if len(game.units) < 2:
        return False
    age = np.ones(1, np.int32)
    game.age(state, age)
    return int(age[0]) == 0


def _round_head(record: GameRecord, game: Game, number: int) -> str:
    """Return what parts a round from the one before it; nothing where a game is one thing."""
    if len(game.units) < 2:
        return ""
    unit, count = list(game.units.items())[1]
    return f"{_points(record, number - 1)}{f'==== {singular(unit)} {number} of {count} ':=<78}\n\n"


def _points(record: GameRecord, number: int) -> str:
    """Return the line of points made in round `number`, where the record has them."""
    scores = _scores(record, rounds=True)
    return f"\npoints: {_points_text(scores[number])}\n\n" if 0 <= number < len(scores) else ""


def _scores(record: GameRecord, rounds: bool) -> list[list[int]]:
    """Return the points of each of a game's `rounds`, or of it as one; none of what are no points."""
    found = record.extra.get("scores")
    rows: Any = found if rounds else [found]
    fit = isinstance(rows, list) and all(isinstance(row, list) and len(row) == len(record.utilities) for row in rows)
    return rows if fit else []


def _score_lines(record: GameRecord, game: Game, rounds: int) -> str:
    """Return the final scores, where the record has them; of a match the last round's points and the sums."""
    rounds_apart = len(game.units) >= 2
    scores = _scores(record, rounds_apart)
    if not scores:
        return ""
    if not rounds_apart:
        return f"scores: {_points_text(scores[0])}\n"
    sums = [sum(points) for points in zip(*scores, strict=True)]
    return f"{_points(record, rounds - 1).lstrip()}scores: {_points_text(sums)}\n"


def _move_line(record: GameRecord, game: Game, ply: int, state: NDArray[Any]) -> str:
    mover = _mover(game, state)
    text = f"{ply + 1}. player {mover} plays {game.render_move(state, record.moves[ply])}"
    parts = [text if game.num_players == 2 else f"{text:25}"]
    visits, values = record.visits[ply], record.values[ply]
    if visits is None:
        parts.append("forced")
    if values is not None:
        parts.append(f"value {values[mover]:+.2f}" if game.zero_sum else f"values {_values_text(values)}")
    if visits:
        parts.append(f"visits {_visits_text(visits, game, state)}")
    return "   ".join(parts)


def _values_text(values: Sequence[float]) -> str:
    """Return the value of each seat, behind the seat's number."""
    return " ".join(f"{seat}:{value:+.2f}" for seat, value in enumerate(values))


def _points_text(points: Sequence[int]) -> str:
    return ", ".join(f"player {seat} {value}" for seat, value in enumerate(points))


def _visits_text(visits: Sequence[Sequence[int]], game: Game, state: NDArray[Any]) -> str:
    """Return the shares of the most visited moves and how many others there were."""
    total = sum(count for _, count in visits) or 1
    ranked = sorted(visits, key=lambda pair: (-pair[1], pair[0]))[:_TOP_MOVES]
    shares = [f"{game.render_move(state, action)} ({100 * count / total:.0f} %)" for action, count in ranked]
    others = len(visits) - _TOP_MOVES
    return ", ".join(shares) + (f", {others} more" if others > 0 else "")


def _result_line(record: GameRecord) -> str:
    results = ", ".join(f"player {seat} {utility:+.4g}" for seat, utility in enumerate(record.utilities))
    if record.status == "finished":
        return f"result: {results} (the replay agrees)"
    return f"result: {results} ({record.status} before the rules decided)"


def _mover(game: Game, state: NDArray[Any]) -> int:
    seat = np.zeros(1, np.int8)
    game.to_play(state, seat)
    return int(seat[0])


@dataclass(frozen=True, kw_only=True)
class Show:
    """Replay one recorded game as text."""

    run: tyro.conf.Positional[str]
    """Run folder."""
    game: int = 0
    """Index of the game."""
    positions: Positions = "auto"
    """Which positions to draw: `all`, or those where `rounds` begin and the last; `auto` draws all for one or two
    players."""
    rules: str = ""
    """Your own game that the record is of, as PATH/FILE.py:Class: a record alone has nothing imported."""


def show(settings: Show) -> int:
    """Print the game; returns the exit status."""
    record = find_game(Path(settings.run) / "games", settings.game)
    show_game(record, rules_of(record, settings.rules), sys.stdout, settings.positions)
    return 0
