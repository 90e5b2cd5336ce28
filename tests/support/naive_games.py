"""Slow twins of the built-in rules, written to be read: lists, sets and a search from scratch after every move."""

from __future__ import annotations


class NaiveConnectFour:
    """Connect Four on a grid of lists, as a plain Python game."""

    num_players = 2
    num_actions = 7
    max_moves = 42
    observation_shape = (2, 6, 7)
    observation_dtype = "uint8"
    zero_sum = True

    def __init__(self, seed: int = 0) -> None:
        self.grid = [[None] * 7 for _ in range(6)]  # top row first
        self.moves = 0

    def legal_actions(self) -> list[int]:
        return [c for c in range(7) if self.grid[0][c] is None]

    def step(self, action: int) -> None:
        row = max(r for r in range(6) if self.grid[r][action] is None)
        self.grid[row][action] = self.to_play()
        self.moves += 1

    def to_play(self) -> int:
        return self.moves % 2

    def utility(self) -> list[float] | None:
        for seat in (0, 1):
            if any(self._four(r, c, seat) for r in range(6) for c in range(7)):
                return [1.0, -1.0] if seat == 0 else [-1.0, 1.0]
        return [0.0, 0.0] if self.moves == 42 else None

    def _four(self, row: int, column: int, seat: int) -> bool:
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            cells = [(row + k * down, column + k * right) for k in range(4)]
            if all(r < 6 and 0 <= c < 7 and self.grid[r][c] == seat for r, c in cells):
                return True
        return False

    def observe(self) -> list[list[list[int]]]:
        seats = (self.to_play(), 1 - self.to_play())
        return [[[int(cell == seat) for cell in row] for row in self.grid] for seat in seats]


class NaiveHex:
    """Hex with a set of cells per seat; a chain is searched from its first edge after every move."""

    num_players = 2
    size = 11
    zero_sum = True
    observation_dtype = "uint8"

    def __init__(self, seed: int = 0) -> None:
        self.stones: tuple[set[tuple[int, int]], set[tuple[int, int]]] = (set(), set())

    def legal_actions(self) -> list[int]:
        cells = [(r, c) for r in range(self.size) for c in range(self.size)]
        taken = self.stones[0] | self.stones[1]
        return [r * self.size + c for r, c in cells if (r, c) not in taken]

    def step(self, action: int) -> None:
        self.stones[self.to_play()].add(divmod(action, self.size))

    def to_play(self) -> int:
        return (len(self.stones[0]) + len(self.stones[1])) % 2

    def utility(self) -> list[float] | None:
        for seat in (0, 1):
            if self.connected(seat):
                return [1.0, -1.0] if seat == 0 else [-1.0, 1.0]
        return None

    def connected(self, seat: int) -> bool:
        """Return whether `seat` has a chain from its first edge to its last; index 0 of a cell is the row."""
        reached = [cell for cell in self.stones[seat] if cell[seat] == 0]
        seen = set(reached)
        while reached:
            r, c = reached.pop()
            if (r, c)[seat] == self.size - 1:
                return True
            around = [(r, c - 1), (r, c + 1), (r - 1, c), (r + 1, c), (r - 1, c + 1), (r + 1, c - 1)]
            new = [cell for cell in around if cell in self.stones[seat] and cell not in seen]
            seen.update(new)
            reached.extend(new)
        return False

    def observe(self) -> list[list[list[int]]]:
        seats = (self.to_play(), 1 - self.to_play())
        line = range(self.size)
        planes = [[[int((r, c) in self.stones[seat]) for c in line] for r in line] for seat in seats]
        return [*planes, [[self.to_play() for _ in line] for _ in line]]


def naive_hex(board_size: int) -> type[NaiveHex]:
    """Return the class of naive Hex on a board of `board_size`."""

    class SizedHex(NaiveHex):
        size = board_size
        num_actions = max_moves = board_size * board_size
        observation_shape = (3, board_size, board_size)

    return SizedHex
