"""Stairs: a plain Python game for one player, as a user would write it."""

from __future__ import annotations


class Stairs:
    """Climb from stair 0, 1 or 2 (by the seed) to stair 20 in few moves, by one, two or three stairs each.

    Three stairs at once make tired: not twice in a row. Stair 13 is broken and ends the climb. The utility falls from
    1 by a tenth a move; it is -1 on the broken stair.
    """

    num_players, num_actions, max_moves = 1, 3, 19
    observation_shape, observation_dtype = (24,), "uint8"

    def __init__(self, seed: int) -> None:
        self.stair, self.moves, self.tired = seed % 3, 0, False

    def legal_actions(self) -> list[int]:
        return [0, 1] if self.tired else [0, 1, 2]

    def step(self, action: int) -> None:
        self.stair += action + 1
        self.moves += 1
        self.tired = action == 2

    def to_play(self) -> int:
        return 0

    def utility(self) -> list[float] | None:
        if self.stair == 13:
            return [-1.0]
        return [1.0 - self.moves / 10] if self.stair >= 20 else None

    def observe(self) -> list[int]:
        return [int(stair == self.stair) for stair in range(23)] + [int(self.tired)]
