"""Hex on a board of N x N cells: Blue (seat 0) joins top and bottom, Red (seat 1) joins left and right; no swap move.

Connections are kept up to date stone by stone. Every stone carries a flag for each of its own two edges that its chain
has reached. A chain without flags that meets one with a flag is flooded with it, once; a stone that would carry both
flags ends the game. That costs one byte a cell and no work but at the stones that change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grove.common.errors import SettingError
from grove.common.kernels import kernel
from grove.game.contract import PerfectInformation, Symmetry

MIN_SIZE, MAX_SIZE = 2, 19

# A cell is 0 or a sum of these: whose stone it is, and which of that seat's edges its chain has reached.
BLUE, RED, LOW, HIGH = 1, 2, 4, 8
"""LOW is the top edge for Blue and the left one for Red; HIGH the bottom and the right one."""

_ROW_STEP = np.array([0, 0, -1, 1, -1, 1], np.int64)
_COLUMN_STEP = np.array([-1, 1, 0, 0, 1, -1], np.int64)


def state_dtype(size: int) -> np.dtype[Any]:
    """Return S for a board of `size`: cells, number of stones, and the winning seat + 1 (0 while there is none)."""
    return np.dtype([("cells", np.uint8, (size, size)), ("stones", np.uint16), ("winner", np.uint8)])


@kernel
def edges_touched(row: int, column: int, size: int, seat: int) -> int:
    """Return the flags of the own edges that a cell lies on."""
    along = row if seat == 0 else column
    return (LOW if along == 0 else 0) | (HIGH if along == size - 1 else 0)


@kernel
def edges_joined(cells: NDArray[np.uint8], row: int, column: int, seat: int) -> int:
    """Return the flags that a stone of `seat` has on this cell: its own and those of the chains beside it."""
    size = cells.shape[0]
    flags = edges_touched(row, column, size, seat)
    for d in range(6):
        r, c = row + _ROW_STEP[d], column + _COLUMN_STEP[d]
        if 0 <= r < size and 0 <= c < size and cells[r, c] & (seat + 1):
            flags |= cells[r, c] & (LOW | HIGH)
    return flags


@kernel
def flood(cells: NDArray[np.uint8], action: int, stack: NDArray[np.int16]) -> None:
    """Give the flags of the stone at `action` to all stones of its chain that have none yet; `stack` is scratch."""
    size = cells.shape[0]
    value = cells[action // size, action % size]
    bare = value & (BLUE | RED)
    stack[0] = action
    top = 1
    while top > 0:
        top -= 1
        row, column = stack[top] // size, stack[top] % size
        for d in range(6):
            r, c = row + _ROW_STEP[d], column + _COLUMN_STEP[d]
            if 0 <= r < size and 0 <= c < size and cells[r, c] == bare:
                cells[r, c] = value
                stack[top] = r * size + c
                top += 1


@kernel
def initial(seeds: NDArray[np.uint64], out: NDArray[Any]) -> None:
    """Write empty boards; the seed changes nothing."""
    for i in range(seeds.shape[0]):
        cells = out[i].cells
        for row in range(cells.shape[0]):
            for column in range(cells.shape[1]):
                cells[row, column] = 0
        out[i].stones = 0
        out[i].winner = 0


@kernel
def step(states: NDArray[Any], actions: NDArray[np.int32]) -> None:
    """Put a stone of the mover on an empty cell, join it to its neighbours and note a win."""
    stack = np.empty(MAX_SIZE * MAX_SIZE, np.int16)
    for i in range(states.shape[0]):
        cells = states[i].cells
        size = cells.shape[0]
        row, column = actions[i] // size, actions[i] % size
        seat = states[i].stones & 1
        flags = edges_joined(cells, row, column, seat)
        cells[row, column] = (seat + 1) | flags
        states[i].stones += 1
        if flags == LOW | HIGH:
            states[i].winner = seat + 1
        elif flags != 0:
            flood(cells, actions[i], stack)


@kernel
def legal(states: NDArray[Any], offsets: NDArray[np.int64], actions: NDArray[np.int32]) -> None:
    """List the empty cells."""
    n = 0
    offsets[0] = 0
    for i in range(states.shape[0]):
        cells = states[i].cells
        size = cells.shape[0]
        for row in range(size):
            for column in range(size):
                # Written always and kept only if empty: no branch to mispredict. There is room for every cell.
                actions[n] = row * size + column
                n += cells[row, column] == 0
        offsets[i + 1] = n


@kernel
def to_play(states: NDArray[Any], out: NDArray[np.int8]) -> None:
    """Write the seats to move: Blue when the number of stones is even."""
    for i in range(states.shape[0]):
        out[i] = states[i].stones & 1


@kernel
def outcome(states: NDArray[Any], done: NDArray[np.bool_], utility: NDArray[np.float64]) -> None:
    """A game is over when a chain joins both edges of its seat."""
    for i in range(states.shape[0]):
        winner = states[i].winner
        done[i] = winner != 0
        blue = 1.0 if winner == BLUE else 0.0
        red = 1.0 if winner == RED else 0.0
        utility[i, 0] = blue - red
        utility[i, 1] = red - blue


@kernel
def observe(states: NDArray[Any], out: NDArray[np.uint8]) -> None:
    """Write three planes: the mover's stones, the other seat's stones, all ones where the mover is Red."""
    for i in range(states.shape[0]):
        seat = np.uint8(states[i].stones & 1)
        write_stones(states[i].cells, np.uint8(seat + 1), out[i, 0])
        write_stones(states[i].cells, np.uint8(2 - seat), out[i, 1])
        out[i, 2] = seat


@kernel
def write_stones(cells: NDArray[np.uint8], colour: np.uint8, plane: NDArray[np.uint8]) -> None:
    """Write 1 where a stone of `colour` lies, else 0; one plane a loop, so that it is vectorised."""
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            plane[row, column] = (cells[row, column] & colour) != 0


def _half_turn(size: int) -> Symmetry:
    planes = np.arange(3 * size * size, dtype=np.int64).reshape(3, size * size)
    return Symmetry(np.arange(size * size, dtype=np.int32)[::-1].copy(), planes[:, ::-1].ravel())


class Hex(PerfectInformation):
    """Hex as a :class:`grove.game.contract.Game`; action r * N + c is the cell in row r, column c, written e.g.
    ``c4``."""

    num_players = 2
    observation_dtype: np.dtype[Any] = np.dtype(np.uint8)
    zero_sum = True
    compiled = True

    initial = staticmethod(initial)
    step = staticmethod(step)
    legal = staticmethod(legal)
    to_play = staticmethod(to_play)
    outcome = staticmethod(outcome)
    observe = staticmethod(observe)

    def __init__(self, size: int = 11) -> None:
        """Set up a board of `size` x `size` cells.

        Raises:
            SettingError: `size` is not in 2..19.
        """
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise SettingError.of("hex size", size, f"it must be {MIN_SIZE} to {MAX_SIZE}", "write e.g. hex:size=11")
        self.size = size
        self.name = f"hex:size={size}"
        self.num_actions = self.max_legal = self.max_moves = size * size
        self.state_dtype = state_dtype(size)
        self.observation_shape: tuple[int, ...] = (3, size, size)
        self.symmetries: tuple[Symmetry, ...] | None = (_half_turn(size),)

    def parse(self, text: str) -> int:
        """Return the cell named by a column letter and a row number, e.g. ``c4``; SettingError otherwise."""
        move = text.strip().lower()
        column, digits = ord(move[:1] or " ") - ord("a"), move[1:]
        row = int(digits) - 1 if digits.isascii() and digits.isdigit() and len(digits) <= 2 else -1
        if 0 <= column < self.size and 0 <= row < self.size:
            return row * self.size + column
        last = self.render_action(self.num_actions - 1)
        raise SettingError.of("move", text, f"it must be a cell from a1 to {last}", "write e.g. b2")

    def render_action(self, action: int) -> str:
        """Return column letter and row number, e.g. ``c4``."""
        row, column = divmod(int(action), self.size)
        return f"{chr(ord('a') + column)}{row + 1}"

    def render(self, state: NDArray[Any]) -> str:
        """Return the rhombus as text, each row shifted by half a cell; B is Blue, R is Red."""
        cells = state.reshape(-1)[0]["cells"] & (BLUE | RED)
        header = "    " + " ".join(chr(ord("a") + c) for c in range(self.size))
        lines = [" " * r + f"{r + 1:3d} " + " ".join(".BR"[v] for v in cells[r]) for r in range(self.size)]
        return "\n".join([header, *lines])
