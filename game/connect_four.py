"""Connect Four: 7 columns of 6 cells; four stones in a row, column or diagonal win.

A state is two bitboards. Column c, height h (0 at the bottom) is bit 7 * c + h; the seventh bit of a column stays
empty, so that shifted lines never run into the next column (John Tromp's Fhourstones layout).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grove.common.errors import SettingError
from grove.common.kernels import kernel
from grove.game.contract import PerfectInformation, Symmetry

ROWS, COLUMNS = 6, 7
CELLS = ROWS * COLUMNS

STATE = np.dtype([("mover", np.uint64), ("filled", np.uint64)])
"""`mover`: stones of the seat to move; `filled`: stones of both seats. 16 bytes."""

_ONE = np.uint64(1)
_BOTTOM = np.array([1 << 7 * c for c in range(COLUMNS)], np.uint64)
_TOP = np.array([1 << 7 * c + ROWS - 1 for c in range(COLUMNS)], np.uint64)
_COLUMN = np.array([0x3F << 7 * c for c in range(COLUMNS)], np.uint64)
_FULL = np.uint64(sum(0x3F << 7 * c for c in range(COLUMNS)))
# The bit of each cell of a plane, top row first.
_PLANE_BITS = np.array([7 * c + h for h in reversed(range(ROWS)) for c in range(COLUMNS)], np.uint64)
_S1, _S6, _S7, _S8 = np.uint64(1), np.uint64(6), np.uint64(7), np.uint64(8)
_S4, _S16, _S32, _S2 = np.uint64(4), np.uint64(16), np.uint64(32), np.uint64(2)


@kernel
def seat(filled: np.uint64) -> np.int8:
    """Return the seat to move: the parity of the number of stones."""
    filled ^= filled >> _S32
    filled ^= filled >> _S16
    filled ^= filled >> _S8
    filled ^= filled >> _S4
    filled ^= filled >> _S2
    filled ^= filled >> _S1
    return np.int8(filled & _ONE)


@kernel
def has_four(stones: np.uint64) -> bool:
    """Return whether `stones` hold four in a line: pairs first, then pairs of pairs two steps apart."""
    vertical = stones & (stones >> _S1)
    falling = stones & (stones >> _S6)
    level = stones & (stones >> _S7)
    rising = stones & (stones >> _S8)
    lines = vertical & (vertical >> np.uint64(2))
    lines |= falling & (falling >> np.uint64(12))
    lines |= level & (level >> np.uint64(14))
    lines |= rising & (rising >> np.uint64(16))
    return bool(lines)


@kernel
def initial(seeds: NDArray[np.uint64], out: NDArray[Any]) -> None:
    """Write empty boards; the seed changes nothing."""
    for i in range(seeds.shape[0]):
        out[i].mover = 0
        out[i].filled = 0


@kernel
def step(states: NDArray[Any], actions: NDArray[np.int32]) -> None:
    """Drop a stone of the mover into its column."""
    for i in range(states.shape[0]):
        filled = states[i].filled
        column = actions[i]
        # Adding the bottom bit carries up to the lowest empty cell.
        stone = (filled + _BOTTOM[column]) & _COLUMN[column]
        states[i].mover = states[i].mover ^ filled
        states[i].filled = filled | stone


@kernel
def legal(states: NDArray[Any], offsets: NDArray[np.int64], actions: NDArray[np.int32]) -> None:
    """List the columns that are not full."""
    n = 0
    offsets[0] = 0
    for i in range(states.shape[0]):
        filled = states[i].filled
        for column in range(COLUMNS):
            if filled & _TOP[column] == np.uint64(0):
                actions[n] = column
                n += 1
        offsets[i + 1] = n


@kernel
def to_play(states: NDArray[Any], out: NDArray[np.int8]) -> None:
    """Write the seats to move."""
    for i in range(states.shape[0]):
        out[i] = seat(states[i].filled)


@kernel
def outcome(states: NDArray[Any], done: NDArray[np.bool_], utility: NDArray[np.float64]) -> None:
    """A game is over when the seat that just moved has four, or when the board is full."""
    for i in range(states.shape[0]):
        filled = states[i].filled
        won = has_four(states[i].mover ^ filled)
        done[i] = won or filled == _FULL
        loser = seat(filled)
        value = 1.0 if won else 0.0
        utility[i, loser] = -value
        utility[i, 1 - loser] = value


@kernel
def observe(states: NDArray[Any], out: NDArray[np.uint8]) -> None:
    """Write two planes, top row first: the mover's stones, the other seat's stones."""
    rows = out.reshape(out.shape[0], 2, CELLS)
    for i in range(states.shape[0]):
        mover = states[i].mover
        other = mover ^ states[i].filled
        for cell in range(CELLS):
            rows[i, 0, cell] = (mover >> _PLANE_BITS[cell]) & _ONE
            rows[i, 1, cell] = (other >> _PLANE_BITS[cell]) & _ONE


def _mirror() -> Symmetry:
    planes = np.arange(2 * CELLS, dtype=np.int64).reshape(2, ROWS, COLUMNS)
    return Symmetry(np.arange(COLUMNS, dtype=np.int32)[::-1].copy(), planes[:, :, ::-1].ravel())


class ConnectFour(PerfectInformation):
    """Connect Four as a :class:`grove.game.contract.Game`; actions are the columns 0..6 from the left."""

    name = "connect_four"
    num_players = 2
    num_actions = COLUMNS
    max_legal = COLUMNS
    max_moves = CELLS
    state_dtype: np.dtype[Any] = STATE
    observation_shape: tuple[int, ...] = (2, ROWS, COLUMNS)
    observation_dtype: np.dtype[Any] = np.dtype(np.uint8)
    zero_sum = True
    compiled = True

    initial = staticmethod(initial)
    step = staticmethod(step)
    legal = staticmethod(legal)
    to_play = staticmethod(to_play)
    outcome = staticmethod(outcome)
    observe = staticmethod(observe)

    def __init__(self) -> None:
        self.symmetries: tuple[Symmetry, ...] | None = (_mirror(),)

    def parse(self, text: str) -> int:
        """Return the column number 1..7 in `text` as an action; SettingError otherwise."""
        move = text.strip()
        if len(move) == 1 and move in "1234567":
            return int(move) - 1
        raise SettingError.of("move", text, "it must be a column from 1 to 7", "write e.g. 4")

    def render_action(self, action: int) -> str:
        """Return the column number, 1..7."""
        return str(int(action) + 1)

    def render(self, state: NDArray[Any]) -> str:
        """Return the board as text; X is seat 0, O is seat 1."""
        fields = state.reshape(-1)[0]
        mover, filled = int(fields["mover"]), int(fields["filled"])
        mine, theirs = "XO" if filled.bit_count() % 2 == 0 else "OX"
        cells = [mine if mover >> int(b) & 1 else theirs if filled >> int(b) & 1 else "." for b in _PLANE_BITS]
        lines = [" ".join(cells[r * COLUMNS : (r + 1) * COLUMNS]) for r in range(ROWS)]
        return "\n".join([*lines, " ".join(str(c + 1) for c in range(COLUMNS))])
