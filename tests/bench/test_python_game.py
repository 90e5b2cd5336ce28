"""Any compiled game as a plain Python one: the same games from the same seeds, and the contract."""

from __future__ import annotations

import pytest

from grove.bench.core.python_game import python_spec
from grove.game import check, load_game
from grove.mcts import SearchSettings
from grove.workers.selfplay.evaluators import HashEvaluator, row_spec
from grove.workers.selfplay.group import Group


def games(spec: str) -> list[tuple[object, ...]]:
    """Return what two games of `spec` were, with the test evaluator, from one run seed."""
    game = load_game(spec)
    group = Group(game, game.name, SearchSettings(simulations=6), 2, None)
    evaluator = HashEvaluator(row_spec(game))
    group.start(7, range(2), stagger=True)
    while group.playing:
        while len(decided := group.forest.search()):
            group.play(decided)
        rows = group.forest.ask()
        if len(rows.ids):
            ids = rows.ids.copy()
            evaluator.submit(rows.observations)
            answer = evaluator.collect(0)
            assert answer is not None
            group.tell(ids, answer)
    return [
        (record.index, record.seed, record.moves, record.visits, record.values, record.utilities)
        for record in sorted(group.finished, key=lambda record: record.index)
    ]


@pytest.mark.parametrize("spec", ["connect_four", "hex:size=3"])
def test_same_seeds_and_evaluations_give_the_same_games(spec: str) -> None:
    plain = load_game(python_spec(spec))
    assert not plain.compiled
    assert games(python_spec(spec)) == games(spec)


def test_it_keeps_the_contract() -> None:
    check(load_game(python_spec("hex:size=3")), games=2)
