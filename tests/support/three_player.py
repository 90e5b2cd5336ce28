"""Ring: a short three-player game for tests of the search, as a user would write a compiled game.

Nine cells lie in a ring and are worth 3 1 4 1 5 9 2 6 5 points. A move takes a free cell, but not one beside the cell
taken last while another is free. Who takes a cell worth one moves again; otherwise the turn goes clockwise. The game
ends when a seat has 12 points or all cells are taken. A seat's utility is points / 10 - 1: the three do not sum to
zero. The seed chooses the first seat.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grove.common.kernels import kernel
from grove.game.contract import PerfectInformation

CELLS, SEATS, ENOUGH = 9, 3, 12
WORTH = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5], np.int64)
NONE = 15

STATE = np.dtype(
    [("owner", np.uint8, (CELLS,)), ("points", np.uint8, (SEATS,)), ("last", np.uint8), ("mover", np.uint8)]
)
"""`owner`: 0 free, else seat + 1; `last`: cell taken last, or NONE. 14 bytes."""


@kernel
def initial(seeds, out):  # u64[B], S[B]
    """Write empty rings; seed modulo 3 moves first."""
    for i in range(seeds.shape[0]):
        for cell in range(CELLS):
            out[i].owner[cell] = 0
        for seat in range(SEATS):
            out[i].points[seat] = 0
        out[i].last = NONE
        out[i].mover = seeds[i] % np.uint64(SEATS)


@kernel
def step(states, actions):  # S[B], i32[B]
    """Take a cell; a cell worth one keeps the turn."""
    for i in range(states.shape[0]):
        cell = actions[i]
        seat = states[i].mover
        states[i].owner[cell] = seat + 1
        states[i].points[seat] += WORTH[cell]
        states[i].last = cell
        if WORTH[cell] != 1:
            states[i].mover = (seat + 1) % SEATS


@kernel
def beside(cell, last):
    """Return whether `cell` is a neighbour of `last` on the ring; nothing is beside NONE."""
    return last != NONE and (cell == (last + 1) % CELLS or last == (cell + 1) % CELLS)


@kernel
def legal(states, offsets, actions):  # S[B], i64[B + 1], i32[>= 9 B]
    """List the free cells away from the last one, or all free cells where there is none such."""
    offsets[0] = 0
    n = 0
    for i in range(states.shape[0]):
        first = n
        for cell in range(CELLS):
            if states[i].owner[cell] == 0 and not beside(cell, states[i].last):
                actions[n] = cell
                n += 1
        if n == first:
            for cell in range(CELLS):
                if states[i].owner[cell] == 0:
                    actions[n] = cell
                    n += 1
        offsets[i + 1] = n


@kernel
def to_play(states, out):  # S[B], i8[B]
    """Write the seats to move."""
    for i in range(states.shape[0]):
        out[i] = states[i].mover


@kernel
def outcome(states, done, utility):  # S[B], bool[B], f64[B, 3]
    """Over when a seat has enough points or nothing is free."""
    for i in range(states.shape[0]):
        full = True
        for cell in range(CELLS):
            full = full and states[i].owner[cell] != 0
        enough = False
        for seat in range(SEATS):
            enough = enough or states[i].points[seat] >= ENOUGH
        done[i] = full or enough
        for seat in range(SEATS):
            utility[i, seat] = states[i].points[seat] / 10.0 - 1.0 if full or enough else 0.0


@kernel
def observe(states, out):  # S[B], u8[B, 4, 9]
    """Write four planes: cells of the mover, of the next seat, of the seat after, and the cell taken last."""
    for i in range(states.shape[0]):
        for cell in range(CELLS):
            for plane in range(SEATS):
                seat = (states[i].mover + plane) % SEATS
                out[i, plane, cell] = states[i].owner[cell] == seat + 1
            out[i, SEATS, cell] = states[i].last == cell


class ThreePlayer(PerfectInformation):
    """Ring as a :class:`grove.game.contract.Game`; spec ``tests.support.three_player:ThreePlayer``."""

    name = "tests.support.three_player:ThreePlayer"
    num_players = SEATS
    num_actions = CELLS
    max_legal = CELLS
    max_moves = CELLS
    state_dtype = STATE
    observation_shape = (SEATS + 1, CELLS)
    observation_dtype = np.dtype(np.uint8)
    zero_sum = False
    compiled = True

    initial = staticmethod(initial)
    step = staticmethod(step)
    legal = staticmethod(legal)
    to_play = staticmethod(to_play)
    outcome = staticmethod(outcome)
    observe = staticmethod(observe)

    def parse(self, text: str) -> int:
        """Return the cell number 0..8."""
        return int(text)

    def render(self, state: NDArray[Any]) -> str:
        """Return the owners around the ring, dots for free cells."""
        return "".join(".ABC"[owner] for owner in state.reshape(-1)[0]["owner"])
