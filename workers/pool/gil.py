"""How much of the interpreter lock a search thread takes: what decides between threads and processes."""

from __future__ import annotations

import time

from grove.game.contract import Game
from grove.mcts import SearchSettings
from grove.workers.selfplay.evaluators import HashEvaluator, row_spec
from grove.workers.selfplay.group import Group

MOST_SHARE = 0.5
"""Above this share of one interpreter lock, search threads wait for each other and for the lanes."""
_FEW, _MANY = 8, 64
_LAPS = 40


def gil_seconds_per_step(game: Game, simulations: int) -> float:
    """Return the seconds of a step that do not grow with its rows: interpreter and call overhead, GIL held.

    Measured as the intercept of the best step times with few and with many trees; kernels run without the GIL.
    """
    few, many = (_lap_seconds(game, simulations, trees) for trees in (_FEW, _MANY))
    return max(0.0, few - _FEW * (many - few) / (_MANY - _FEW))


def _lap_seconds(game: Game, simulations: int, trees: int) -> float:
    settings = SearchSettings(simulations=max(simulations, _LAPS + 2))
    group = Group(game, game.name, settings, trees, None)
    evaluator = HashEvaluator(row_spec(game))
    group.start(0, range(trees))
    best = float("inf")
    for _ in range(_LAPS):
        started = time.perf_counter()
        group.forest.search()
        rows = group.forest.ask()
        searched = time.perf_counter() - started
        evaluator.submit(rows)
        answer = evaluator.collect(0)
        assert answer is not None, "the hash evaluator answers at once"
        started = time.perf_counter()
        group.forest.tell(rows.ids, answer.logits, answer.values)
        best = min(best, searched + time.perf_counter() - started)
    return best


def thread_verdict(game: Game, simulations: int, rows_per_s: float, rows_per_step: int) -> tuple[bool, str]:
    """Return whether search threads beside the lanes will do for `rows_per_s`, and the reason in words."""
    if not game.compiled:
        return False, f"{game.name} is written in Python and would hold the GIL"
    per_step = gil_seconds_per_step(game, simulations)
    share = per_step * rows_per_s / rows_per_step
    text = f"searching takes {share:.0%} of the GIL ({per_step * 1e6:.0f} us a step of {rows_per_step} rows"
    return share <= MOST_SHARE, f"{text}, at {rows_per_s:,.0f} rows/s)"
