"""Ring: a short plain Python game for three players."""

from __future__ import annotations

WORTH = (3, 1, 4, 1, 5, 9, 2, 6, 5)


class Ring:
    """Nine cells lie in a ring and are worth `WORTH`. A move takes a free cell, but not one beside the cell taken last
    while another is free. Who takes a cell worth one moves again; otherwise the turn goes clockwise. The game ends when
    a seat has 12 points or all cells are taken. A seat's utility is points / 10 - 1: the three do not sum to zero. The
    seed chooses the first seat.
    """

    num_players, num_actions, max_moves = 3, 9, 9
    observation_shape, observation_dtype = (4, 9), "uint8"

    def __init__(self, seed: int) -> None:
        self.owner: dict[int, int] = {}
        self.points, self.last, self.mover = [0, 0, 0], -1, seed % 3

    def legal_actions(self) -> list[int]:
        free = [cell for cell in range(9) if cell not in self.owner]
        return [cell for cell in free if self.last < 0 or (cell - self.last) % 9 not in (1, 8)] or free

    def step(self, action: int) -> None:
        self.owner[action], self.last = self.mover, action
        self.points[self.mover] += WORTH[action]
        if WORTH[action] != 1:
            self.mover = (self.mover + 1) % 3

    def to_play(self) -> int:
        return self.mover

    def utility(self) -> list[float] | None:
        over = len(self.owner) == 9 or max(self.points) >= 12
        return [points / 10 - 1 for points in self.points] if over else None

    def observe(self) -> list[list[int]]:
        planes = [[int(self.owner.get(cell) == (self.mover + k) % 3) for cell in range(9)] for k in range(3)]
        return [*planes, [int(cell == self.last) for cell in range(9)]]
