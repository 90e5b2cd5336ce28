"""What a forest keeps beside its pools: the rows of the step under way, the leaves that wait, and views of bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from grove.game.contract import Game
from grove.mcts.kernels import layout


class Workspace:
    """Scratch arrays for the rows of one search step: B <= `size` leaves that have just been reached."""

    def __init__(self, game: Game, size: int) -> None:
        self.size = size
        self.work = np.zeros(size, layout.LEAF)
        self.states = np.zeros(size, game.state_dtype)
        self.raw = bytes_of_states(self.states)
        self.actions = np.zeros(size, np.int32)
        self.done = np.zeros(size, np.bool_)
        self.utility = np.zeros((size, game.num_players), np.float64)
        self.offsets = np.zeros(size + 1, np.int64)
        self.legal = np.zeros(size * game.max_legal, np.int32)
        self.to_play = np.zeros(size, np.int8)
        self.ids = np.zeros(size, np.int32)
        self.rows = np.zeros((size, *game.observation_shape), game.observation_dtype)
        self.raw_rows = bytes_of_rows(self.rows)
        self.hashes = np.zeros(size, np.uint64)
        self.found = np.zeros(size, np.int32)
        self.misses = np.zeros(size, np.int32)
        self.told = np.zeros(size, layout.TOLD)


class PendingLeaves:
    """Leaves that wait for an answer, number t * L + k for tree t, and the rows gathered for the next ask."""

    def __init__(self, game: Game, trees: int, leaves: int) -> None:
        size = trees * leaves
        self.by_tree = np.zeros((trees, leaves), layout.LEAF)
        self.leaves = self.by_tree.reshape(-1)
        self.states = np.zeros(size, game.state_dtype)
        self.raw = bytes_of_states(self.states)
        self.actions = np.zeros((size, game.max_legal), np.int32)
        self.raw_rows = np.zeros((size, observation_bytes(game)), np.uint8)
        self.told = np.zeros(size, layout.TOLD)
        self.count = 0
        self.asked = np.zeros(size, np.int32)
        self.observations = np.zeros((size, *game.observation_shape), game.observation_dtype)
        self.raw_observations = bytes_of_rows(self.observations)
        self.table = np.full(1 << (2 * size - 1).bit_length(), layout.NONE, np.int32)

    def forget_dropped(self) -> None:
        """Take rows that were dropped before anybody asked for them out of the next ask."""
        asked = self.asked[: self.count]
        keep = self.leaves["state"][asked] == layout.PLACED
        kept = int(keep.sum())
        self.observations[:kept] = self.observations[: self.count][keep]
        self.asked[:kept] = asked[keep]
        self.count = kept
        # Leaves must not be merged with leaves that are free now; the kept ones lose followers, nothing else.
        self.table.fill(layout.NONE)


def bytes_of_states(states: npt.NDArray[np.void]) -> npt.NDArray[np.uint8]:
    """Return structured states S [B] as bytes uint8 [B, S], sharing memory."""
    return states.view(np.uint8).reshape(len(states), states.dtype.itemsize)


def bytes_of_rows(rows_: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return observations [B, ...] as bytes uint8 [B, K], sharing memory."""
    return rows_.reshape(len(rows_), -1).view(np.uint8)


def observation_bytes(game: Game) -> int:
    """Return the bytes of one row."""
    return int(np.prod(game.observation_shape)) * np.dtype(game.observation_dtype).itemsize
