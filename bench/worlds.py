"""How long a world of Blob takes: the mean over random play, the slowest ply, and the slowest single state.

    python -m grove.bench.worlds blob:players=4,cards=5
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from grove.game import Game, load_game

ROUNDS = 400
REPEATS = 5


def positions(game: Game, rounds: int, rng: np.random.Generator) -> list[npt.NDArray[Any]]:
    """Return the states S [rounds] before every decision of random rounds but the last card of each hand."""
    states = np.zeros(rounds, game.state_dtype)
    game.initial(rng.integers(0, 1 << 62, rounds, np.uint64), states)
    offsets, actions = np.zeros(rounds + 1, np.int64), np.zeros(rounds * game.max_legal, np.int32)
    found = []
    for _ in range(game.max_moves - game.num_players):
        found.append(states.copy())
        game.legal(states, offsets, actions)
        game.step(states, actions[offsets[:-1] + rng.integers(0, np.diff(offsets))])
    return found


def best_seconds(game: Game, states: npt.NDArray[Any], seeds: npt.NDArray[np.uint64]) -> float:
    """Return the shortest of `REPEATS` times to draw a world for each of `states`."""
    out, best = np.zeros_like(states), float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        game.determinize(states, seeds, out)
        best = min(best, time.perf_counter() - started)
    return best


def main(spec: str) -> None:
    """Measure and print."""
    game, rng = load_game(spec), np.random.default_rng(0)
    plies = positions(game, ROUNDS, rng)
    seeds = rng.integers(0, 1 << 62, ROUNDS, np.uint64)
    best_seconds(game, plies[0], seeds)
    each = [best_seconds(game, states, seeds) / ROUNDS for states in plies]
    call = best_seconds(game, plies[0][:0], seeds[:0])
    single = max(best_seconds(game, states[i : i + 1], seeds[:1]) - call for states in plies for i in range(ROUNDS))
    mean, slowest = sum(each) / len(each), max(each)
    print(
        f"{game.name}: {mean * 1e6:.2f} us a world, {slowest * 1e6:.2f} us at the slowest ply, "
        f"{single * 1e6:.0f} us for the slowest of {len(plies) * ROUNDS} states"
    )


if __name__ == "__main__":
    main(sys.argv[1])
