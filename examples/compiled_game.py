"""A compiled game: the rules of Nim as numba kernels, which play millions of moves a second.

    python examples/compiled_game.py [GAMES]

One heap of 5 to 20 stones; a move takes one, two or three of them; whoever takes the last stone wins.
docs/tutorials/own-compiled-game.md explains every line.
"""

import sys

import numpy as np

import grove
from grove.common.kernels import kernel
from grove.game import check

MOST = 20
STATE = np.dtype([("stones", np.uint8), ("mover", np.uint8)])


@kernel
def initial(seeds, out):  # uint64[B], STATE[B]
    for i in range(seeds.shape[0]):
        out[i].stones = 5 + seeds[i] % np.uint64(MOST - 4)
        out[i].mover = 0


@kernel
def step(states, actions):  # STATE[B], int32[B]: action a takes a + 1 stones
    for i in range(states.shape[0]):
        states[i].stones -= actions[i] + 1
        states[i].mover = 1 - states[i].mover


@kernel
def legal(states, offsets, actions):  # STATE[B], int64[B + 1], int32[B * max_legal]
    n = offsets[0] = 0
    for i in range(states.shape[0]):
        for action in range(min(3, states[i].stones)):
            actions[n] = action
            n += 1
        offsets[i + 1] = n


@kernel
def to_play(states, out):  # STATE[B], int8[B]
    for i in range(states.shape[0]):
        out[i] = states[i].mover


@kernel
def outcome(states, done, utility):  # STATE[B], bool[B], float64[B, 2]
    for i in range(states.shape[0]):
        done[i] = states[i].stones == 0
        utility[i, states[i].mover] = -1.0  # the other seat took the last stone
        utility[i, 1 - states[i].mover] = 1.0


@kernel
def observe(states, out):  # STATE[B], uint8[B, MOST]
    for i in range(states.shape[0]):
        for stone in range(MOST):
            out[i, stone] = stone < states[i].stones


class Nim:
    num_players, num_actions, max_legal, max_moves = 2, 3, 3, MOST
    state_dtype, observation_shape, observation_dtype = STATE, (MOST,), np.dtype(np.uint8)
    zero_sum = compiled = True
    initial, step, legal = staticmethod(initial), staticmethod(step), staticmethod(legal)
    to_play, outcome, observe = staticmethod(to_play), staticmethod(outcome), staticmethod(observe)
    parse, render = staticmethod(int), staticmethod(lambda state: f"{state.reshape(-1)[0]['stones']} stones")


if __name__ == "__main__":
    check(grove.load_game(f"{__file__}:Nim"))  # tries every promise of the contract on random games
    games = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    summary = grove.selfplay(Nim, games=games, simulations=50, compile="off")
    print(f"{summary.games} games in {summary.folder}, {summary.figures['games_per_minute']:,.0f} games a minute")
