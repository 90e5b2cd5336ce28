"""The search alone: simulations per second of one thread with the test evaluator, no network, no records.

    python -m grove.bench.search connect_four 64
"""

from __future__ import annotations

import sys
import time

import numpy as np
import numpy.typing as npt

from grove.game import load_game
from grove.mcts import NONE, ROOT, Forest, SearchSettings
from grove.workers.selfplay.row_kernels import hash_evaluate

SIMULATIONS = 100
REPEATS = 12


def simulations_per_second(spec: str, trees: int) -> list[float]:
    """Return the rate of `REPEATS` searches of `trees` start positions, after one that is not counted."""
    game = load_game(spec)
    forest = Forest(game, trees, SearchSettings(simulations=SIMULATIONS))
    states = np.zeros(trees, game.state_dtype)
    game.initial(np.arange(trees, dtype=np.uint64), states)
    rates = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        _search(forest, states)
        rates.append(trees * SIMULATIONS / (time.perf_counter() - started))
    return rates[1:]


def _search(forest: Forest, states: npt.NDArray[np.void]) -> None:
    trees, game = len(states), forest.game
    roots = np.zeros(trees, ROOT)
    roots["tree"] = roots["key"] = np.arange(trees)
    roots["target"], roots["action"] = SIMULATIONS, NONE
    forest.set_roots(roots, states)
    logits = np.zeros((trees, game.num_actions), np.float32)
    values = np.zeros((trees, 1 if game.zero_sum else game.num_players), np.float32)
    while len(forest.search()) < trees:
        rows = forest.ask()
        count = len(rows.ids)
        hash_evaluate(rows.observations.reshape(count, -1).view(np.uint8), logits[:count], values[:count])
        forest.tell(rows.ids, logits[:count], values[:count])


if __name__ == "__main__":
    measured = sorted(simulations_per_second(sys.argv[1], int(sys.argv[2])))
    low, median, high = measured[0], measured[len(measured) // 2], measured[-1]
    print(f"{sys.argv[1]}, {sys.argv[2]} trees: {median:,.0f} simulations/s (lowest {low:,.0f}, highest {high:,.0f})")
