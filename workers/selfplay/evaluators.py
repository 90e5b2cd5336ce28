"""Where a worker's rows are evaluated: one small contract, `inference_server.Client`, and several kinds.

`server` sends them to the inference server, `local` and `direct` own a network (the worker's batch at once, or one
position a call: the baseline), `rollout` plays random games to the end, `test` hashes the row. A worker's loop is the
same code for all of them.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from grove.common.rng import derive
from grove.game.contract import Game
from grove.inference_server.interface.client import DEFAULT, Answer, Client, Floats, Legal
from grove.inference_server.interface.rows import RowSpec
from grove.mcts import LeafRows
from grove.workers.selfplay.row_kernels import draw_moves, hash_evaluate, state_keys

KINDS = ("server", "local", "direct", "rollout", "test")
RAGGED_ABOVE = 512
"""Games with more actions than this receive the logits of legal moves only."""


def submit(evaluator: Client, rows: LeafRows) -> int:
    """Let `evaluator` evaluate what a forest asks; return the ticket.

    Random games begin at the states themselves. A server sends the logits of games with many actions for legal moves
    only.
    """
    if isinstance(evaluator, RolloutEvaluator):
        return evaluator.submit(rows.states())
    ragged = rows.forest.game.num_actions > RAGGED_ABOVE and not isinstance(evaluator, OwnEvaluator)
    return evaluator.submit(rows.observations, rows.legal() if ragged else None)


class OwnEvaluator:
    """Base of evaluators that compute in the worker itself, when their answer is collected."""

    def __init__(self, num_actions: int, value_size: int, version: str) -> None:
        self._num_actions, self._value_size, self._version = num_actions, value_size, version
        self._queue: deque[tuple[int, npt.NDArray[Any]]] = deque()
        self._tickets = 0

    def submit(self, observations: npt.NDArray[Any], legal: Legal | None = None, model: str = DEFAULT) -> int:
        """Queue a copy of the rows; there is one model, and it answers with all logits."""
        self._tickets += 1
        self._queue.append((self._tickets, observations.copy()))
        return self._tickets

    def collect(self, timeout_s: float) -> Answer | None:
        """Compute the oldest ticket now; None when there is none."""
        if not self._queue:
            return None
        ticket, rows = self._queue.popleft()
        return Answer(ticket, *self.compute(rows), self._version)

    def set_window(self, requests: int) -> None:
        """Do nothing: there is no server that waits for this worker's rows."""

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()

    def compute(self, rows: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Return logits [B, A] and values [B, V] of submitted rows [B, ...]."""
        raise NotImplementedError

    def _outputs(self, count: int) -> tuple[Floats, Floats]:
        return np.zeros((count, self._num_actions), np.float32), np.zeros((count, self._value_size), np.float32)


class HashEvaluator(OwnEvaluator):
    """The test evaluator: the same answer to the same row, everywhere."""

    def __init__(self, spec: RowSpec) -> None:
        super().__init__(spec.num_actions, spec.value_size, "test")

    def compute(self, rows: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Hash every row."""
        logits, values = self._outputs(len(rows))
        hash_evaluate(rows.reshape(len(rows), -1).view(np.uint8), logits, values)
        return logits, values


class NetworkEvaluator(OwnEvaluator):
    """A network of the worker's own: `batch=True` evaluates a ticket at once, False one position a call."""

    def __init__(self, spec: RowSpec, network: Any, batch: bool) -> None:
        super().__init__(spec.num_actions, spec.value_size, network.version)
        self._network, self._batch = network, batch

    def compute(self, rows: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Run the network."""
        step = len(rows) if self._batch else 1
        logits, values = self._outputs(len(rows))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            logits[part], values[part] = self._network.evaluate(rows[part])
        return logits, values


class RolloutEvaluator(OwnEvaluator):
    """Plays `playouts` random games from every leaf: equal priors, the mean outcome as value."""

    def __init__(self, game: Game, playouts: int = 1, seed: int = 0) -> None:
        super().__init__(game.num_actions, game.num_players, "rollout")
        self._game, self._playouts = game, playouts
        self._seed = np.uint64(seed)

    def compute(self, rows: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Return zero logits and the mean utilities of random games from states S [B], seat-relative."""
        logits, values = self._outputs(len(rows))
        mover = np.empty(len(rows), np.int8)
        self._game.to_play(rows, mover)
        for playout in range(self._playouts):
            values += self._play_out(rows.copy(), playout)
        order = (mover[:, None] + np.arange(self._game.num_players)) % self._game.num_players
        relative = np.take_along_axis(values / np.float32(self._playouts), order, axis=1)
        return logits, np.ascontiguousarray(relative, np.float32)

    def _play_out(self, states: npt.NDArray[np.void], playout: int) -> npt.NDArray[np.float32]:
        """Play all states to their ends and return the utilities, absolute seats, float32 [B, P]."""
        game, players = self._game, self._game.num_players
        result = np.zeros((len(states), players), np.float32)
        alive, keys = np.arange(len(states)), np.empty(len(states), np.uint64)
        state_keys(states.view(np.uint8).reshape(len(states), -1), np.uint64(derive(self._seed, playout)), keys)
        for turn in range(game.max_moves + 1):
            done, utility = np.zeros(len(states), np.bool_), np.zeros((len(states), players))
            game.outcome(states, done, utility)
            result[alive[done]] = utility[done]
            states, alive, keys = states[~done], alive[~done], keys[~done]
            if not len(states):
                break
            offsets, actions = np.zeros(len(states) + 1, np.int64), np.zeros(len(states) * game.max_legal, np.int32)
            game.legal(states, offsets, actions)
            chosen = np.empty(len(states), np.int32)
            draw_moves(keys, turn, offsets, actions, chosen)
            game.step(states, chosen)
        return result


def row_spec(game: Game) -> RowSpec:
    """Return what the inference server must know about the rows of `game`."""
    return RowSpec(
        game=game.name,
        observation_shape=tuple(game.observation_shape),
        observation_dtype=np.dtype(game.observation_dtype).name,
        num_actions=game.num_actions,
        num_players=game.num_players,
        zero_sum=game.zero_sum,
    )
