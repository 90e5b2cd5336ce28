"""A group of games: what it records is what the rules and the search say, whatever became of single rows."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from grove.commands.show import show_game
from grove.common.rng import derive
from grove.game import load_game
from grove.game.contract import Game
from grove.inference_server import Answer
from grove.mcts import LeafRows, SearchSettings, make_cache
from grove.records.record import GameRecord, decode_line, encode
from grove.workers.selfplay.evaluators import HashEvaluator, row_spec
from grove.workers.selfplay.group import SAMPLE_EVERY, Group

Spoil = Callable[[int, Answer], Answer]
SHORT = SearchSettings(simulations=12)


def evaluated(game: Game, rows: LeafRows) -> Answer:
    evaluator = HashEvaluator(row_spec(game))
    evaluator.submit(rows.observations)
    answer = evaluator.collect(0)
    assert answer is not None
    return answer


def played(game: Game, settings: SearchSettings, indices: range, slots: int, spoil: Spoil | None = None) -> Group:
    """Play the games `indices`; `spoil` makes what it likes of the answers of a step."""
    group = Group(game, game.name, settings, slots, make_cache(game, settings))
    waiting = list(indices)
    for step in range(10_000):
        for _ in range(1000):
            count = min(len(group.free), len(waiting))
            group.start(5, [waiting.pop(0) for _ in range(count)])
            decided = group.forest.search()
            if not len(decided):
                break
            group.play(decided)
        if not group.playing and not waiting:
            return group
        rows = group.forest.ask()
        ids, answer = rows.ids.copy(), evaluated(game, rows)
        group.tell(ids, spoil(step, answer) if spoil else answer)
    raise AssertionError("the games do not end")


def finished(group: Group) -> list[GameRecord]:
    return sorted(group.finished, key=lambda record: record.index)


def gist(records: list[GameRecord]) -> list[object]:
    """Return what must not depend on time, place or company."""
    return [(r.index, r.seed, r.moves, r.visits, r.values, r.utilities, r.status) for r in records]


@pytest.mark.parametrize("spec", ["connect_four", "hex:size=4"])
def test_records_keep_to_rules_and_search(spec: str) -> None:
    game = load_game(spec)
    records = finished(played(game, SHORT, range(6), 4))
    assert [record.index for record in records] == list(range(6))
    for record in records:
        show_game(record, game, io.StringIO())  # replays it and checks moves and result
        assert record.seed == int(derive(np.uint64(5), record.index))
        assert record.status == "finished"
        for visits, values, model in zip(record.visits, record.values, record.models, strict=True):
            if visits is None:
                assert values is None
                assert model is None
                continue
            assert sum(count for _, count in visits) == SHORT.simulations
            assert values is not None
            assert np.abs(values).max() <= 1
            assert model == "test"
        read = decode_line(encode(record))
        assert (read.moves, read.visits, read.utilities) == (record.moves, record.visits, record.utilities)


@pytest.mark.parametrize("slots", [1, 3, 20])
@pytest.mark.parametrize("options", [{}, {"cache": 4096}, {"leaves": 3}, {"reuse": True}])
def test_a_game_does_not_depend_on_its_company(slots: int, options: dict[str, int]) -> None:
    game = load_game("hex:size=3")
    settings = SearchSettings(simulations=12, **options)
    alone = SearchSettings(simulations=12, **{name: v for name, v in options.items() if name != "cache"})
    assert gist(finished(played(game, settings, range(12), slots))) == gist(finished(played(game, alone, range(12), 2)))


@pytest.mark.parametrize("fault", ["failed", "nan logits", "infinite values"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_failed_rows_are_asked_again_and_change_nothing(fault: str, share: float) -> None:
    game = load_game("connect_four")
    random = np.random.default_rng(0)

    def spoil(step: int, answer: Answer) -> Answer:
        rows = np.flatnonzero(random.random(len(answer.values)) < share).astype(np.int32)
        if step % 3:
            return answer
        if fault == "failed":
            answer.logits[rows] = answer.values[rows] = 0
            return answer._replace(failed=rows)
        if fault == "nan logits":
            answer.logits[rows] = np.nan
        else:
            answer.values[rows] = np.inf
        return answer

    group = played(game, SHORT, range(5), 3, spoil)
    assert group.tally.failed_rows > 0
    assert gist(finished(group)) == gist(finished(played(game, SHORT, range(5), 3)))


def test_a_lower_cap_ends_games_as_timeouts() -> None:
    game = load_game("hex:size=4")
    settings = SearchSettings(simulations=4, max_moves=3, timeout_utility=-0.5)
    group = played(game, settings, range(3), 2)
    for record in finished(group):
        assert (len(record.moves), record.status, record.utilities) == (3, "timeout", [-0.5, -0.5])
    assert (group.tally.games, group.tally.timeouts, group.tally.moves) == (3, 3, 9)


def test_the_tally_counts_what_happened() -> None:
    game = load_game("connect_four")
    group = played(game, SHORT, range(8), 4)
    records = finished(group)
    searched = sum(visits is not None for record in records for visits in record.visits)
    assert group.tally.games == 8
    assert group.tally.moves == sum(len(record.moves) for record in records)
    assert group.tally.decisions == searched
    assert group.forest.simulations == searched * SHORT.simulations
    assert group.tally.sampled_decisions == -(-searched // SAMPLE_EVERY)
    assert 0 < group.tally.distinct_evaluations <= group.tally.sampled_evaluations
    assert group.games_in_progress() == []


# -- hidden information ----------------------------------------------------------------------------------------------

HIDDEN = ["blob:players=3,cards=3", "blob:players=3,match=2"]


@pytest.mark.parametrize("spec", HIDDEN)
@pytest.mark.parametrize("worlds", [1, 3])
def test_hidden_games_are_played_to_the_end(spec: str, worlds: int) -> None:
    game = load_game(spec)
    settings = SearchSettings(simulations=12, worlds=worlds, temperature="0:1")
    records = finished(played(game, settings, range(6), 4))
    assert [record.index for record in records] == list(range(6))
    for record in records:
        show_game(record, game, io.StringIO())
        assert record.status == "finished"
        assert record.extra == game.annotate(record.seed, record.moves)
        assert record.extra
        for visits in record.visits:
            assert visits is None or sum(count for _, count in visits) == worlds * 12
        read = decode_line(encode(record))
        assert (read.moves, read.visits, read.extra) == (record.moves, record.visits, record.extra)


@pytest.mark.parametrize("spec", HIDDEN)
@pytest.mark.parametrize("options", [{}, {"cache": 4096}, {"leaves": 3}, {"simulations_per": "decision"}])
def test_a_hidden_game_does_not_depend_on_its_company(spec: str, options: dict[str, Any]) -> None:
    game = load_game(spec)
    settings = SearchSettings(simulations=12, worlds=3, **options)
    alone = SearchSettings(simulations=12, worlds=3, **{n: v for n, v in options.items() if n != "cache"})
    assert gist(finished(played(game, settings, range(6), 5))) == gist(finished(played(game, alone, range(6), 1)))


def test_temperatures_count_the_moves_of_the_round() -> None:
    """With temperature on the first move of a round alone, every later move is the most visited one."""
    game = load_game("blob:players=3,match=2")
    records = finished(played(game, SearchSettings(simulations=20, temperature="0:50,1:0"), range(40), 20))
    drawn = set()
    for record in records:
        for ply, (visits, move) in enumerate(zip(record.visits, record.moves, strict=True)):
            if visits is not None and dict(map(tuple, visits))[move] < max(count for _, count in visits):
                drawn.add(ply)
    assert drawn == {0, 9, 15, 21, 27, 33}  # rounds of two cards, four times one, two


@pytest.mark.parametrize("spec", ["connect_four", "blob:players=4,cards=3"])
def test_staggered_games_begin_at_random_plies_and_replay(spec: str) -> None:
    game = load_game(spec)
    group = Group(game, game.name, SHORT, 64, None)
    group.start(5, range(64), stagger=True)
    begun = [len(play.moves) for play in group._plays if play is not None]
    assert len(begun) + len(group.finished) == 64  # where only forced moves were left, they are played at once
    assert min(begun) < game.max_moves / 4 < max(begun)
    while group.playing:
        decided = group.forest.search()
        if len(decided):
            group.play(decided)
            continue
        rows = group.forest.ask()
        group.tell(rows.ids.copy(), evaluated(game, rows))
    assert len(group.finished) == 64
    for record in group.finished:
        show_game(record, game, io.StringIO())
