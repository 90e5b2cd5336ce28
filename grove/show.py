"""`grove show`: a recorded game replayed as text, with what the search thought of every move."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tyro
from numpy.typing import NDArray

from common.errors import RecordError, SettingError
from game import Game, load_game
from workers.records import GameRecord, Problem, read_folder

_TOP_MOVES = 4
_TOLERANCE = 1e-6


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
    unread = f" ({len(problems)} lines were damaged)" if problems else ""
    raise SettingError.of("game", index, f"{games} holds {count} other games{unread}", "give the index of one of them")


def show_game(record: GameRecord, game: Game, out: TextIO) -> None:
    """Replay `record` by the rules of `game` and write every position and what the search made of it to `out`.

    Raises RecordError when the record does not fit the rules: another game, an illegal move, moves after the end or
    missing at it, another result.
    """
    if record.game != game.name:
        raise RecordError(f"game {record.index} is of {record.game}, but these are the rules of {game.name}")
    state = np.zeros(1, game.state_dtype)
    game.initial(np.array([record.seed], np.uint64), state)
    out.write(f"game {record.index} of {record.game}, {len(record.moves)} moves, {record.seconds:.1f} s\n\n")
    out.write(f"{game.render(state)}\n\n")
    for ply, action in enumerate(record.moves):
        _check_legal(record, game, state, ply)
        out.write(f"{_move_line(record, game, ply, _mover(game, state))}\n")
        game.step(state, np.array([action], np.int32))
        out.write(f"{game.render(state)}\n\n")
    _check_result(record, game, state)
    out.write(f"{_result_line(record)}\n")


def _move_line(record: GameRecord, game: Game, ply: int, mover: int) -> str:
    parts = [f"{ply + 1}. player {mover} plays {game.render_action(record.moves[ply])}"]
    visits, values = record.visits[ply], record.values[ply]
    if visits is None:
        parts.append("forced")
    if values is not None:
        parts.append(f"value {_value_text(values, mover, game.zero_sum)}")
    if visits:
        parts.append(f"visits {_visits_text(visits, game)}")
    return "   ".join(parts)


def _value_text(values: Sequence[float], mover: int, zero_sum: bool) -> str:
    """Return the mover's value where that says it all, else that of each seat in order."""
    if zero_sum:
        return f"{values[mover]:+.2f}"
    return " ".join(f"{value:+.2f}" for value in values)


def _visits_text(visits: Sequence[Sequence[int]], game: Game) -> str:
    """Return the shares of the most visited moves and how many others there were."""
    total = sum(count for _, count in visits) or 1
    ranked = sorted(visits, key=lambda pair: (-pair[1], pair[0]))
    shares = [f"{game.render_action(action)} ({100 * count / total:.0f} %)" for action, count in ranked[:_TOP_MOVES]]
    others = len(ranked) - _TOP_MOVES
    return ", ".join(shares) + (f", {others} more" if others > 0 else "")


def _result_line(record: GameRecord) -> str:
    results = ", ".join(f"player {seat} {utility:+g}" for seat, utility in enumerate(record.utilities))
    if record.status == "finished":
        return f"result: {results} (the replay agrees)"
    return f"result: {results} ({record.status} before the rules decided)"


# -- does the record fit the rules? ----------------------------------------------------------------------------------


def _mover(game: Game, state: NDArray[Any]) -> int:
    seat = np.zeros(1, np.int8)
    game.to_play(state, seat)
    return int(seat[0])


def _outcome(game: Game, state: NDArray[Any]) -> tuple[bool, list[float]]:
    done, utility = np.zeros(1, np.bool_), np.zeros((1, game.num_players))
    game.outcome(state, done, utility)
    return bool(done[0]), [float(value) for value in utility[0]]


def _check_legal(record: GameRecord, game: Game, state: NDArray[Any], ply: int) -> None:
    action = record.moves[ply]
    offsets, actions = np.zeros(2, np.int64), np.zeros(game.max_legal, np.int32)
    game.legal(state, offsets, actions)
    done, _ = _outcome(game, state)
    if done or action not in actions[: offsets[1]]:
        why = "the game is over already" if done else f"action {action} is not legal there"
        raise RecordError(f"game {record.index} does not follow the rules of {game.name}: move {ply + 1}, {why}")


def _check_result(record: GameRecord, game: Game, state: NDArray[Any]) -> None:
    done, utilities = _outcome(game, state)
    if done != (record.status == "finished"):
        found = "is over" if done else "is not over"
        raise RecordError(f"game {record.index} is recorded as {record.status}, but after its moves it {found}")
    if done and not _equal(utilities, record.utilities):
        raise RecordError(f"game {record.index} has the result {record.utilities}, but its replay gives {utilities}")


def _equal(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and np.allclose(a, b, rtol=0, atol=_TOLERANCE)


@dataclass(frozen=True, kw_only=True)
class Show:
    """Replay one recorded game as text."""

    run: tyro.conf.Positional[str]
    """Run folder."""
    game: int = 0
    """Index of the game."""


def show(settings: Show) -> int:
    """Print the game; returns the exit status."""
    record = find_game(Path(settings.run) / "games", settings.game)
    show_game(record, load_game(record.game), sys.stdout)
    return 0
