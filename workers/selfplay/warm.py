"""Compile or load every kernel of a game before workers start: first-time cache writes by two processes at once can
crash, and a fork server (`fork_server.py`) whose kernels are loaded makes workers start at once.
"""

from __future__ import annotations

from contextlib import suppress

from grove.game import load_game
from grove.mcts import SearchSettings, make_cache
from grove.workers.selfplay.evaluators import HashEvaluator, row_spec
from grove.workers.selfplay.group import Group


def warm(game_spec: str) -> None:
    """Play two short games with every option that has a kernel of its own."""
    game = load_game(game_spec)
    hidden = game.hidden_information
    for settings in (
        SearchSettings(simulations=4, cache=16, temperature="0:1,2:0"),
        SearchSettings(simulations=6, reuse=not hidden, worlds=2 if hidden else 1, leaves=2, max_moves=8),
    ):
        group = Group(game, game.name, settings, 2, make_cache(game, settings))
        _play(group, HashEvaluator(row_spec(game)))


def _play(group: Group, evaluator: HashEvaluator) -> None:
    group.start(1, range(2))
    for step in range(200):
        for _ in range(64):
            decided = group.forest.search()
            if not len(decided):
                break
            group.play(decided)
        rows = group.forest.ask()
        if not len(rows.ids):
            return
        ids = rows.ids.copy()
        rows.legal()
        if step == 1:
            group.forest.drop(ids)
            continue
        evaluator.submit(rows.observations)
        answer = evaluator.collect(0)
        assert answer is not None, "the hash evaluator answers at once"
        group.forest.tell(ids, answer.logits, answer.values, answer.version)


def load_kernels(game_spec: str) -> None:
    """Warm a game. One that fails, or a kernel of it, is left to whoever plays it, which can say so."""
    with suppress(Exception):
        warm(game_spec)
