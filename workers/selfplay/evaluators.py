"""Where a worker's rows are evaluated: one small contract, several kinds.

`server` sends them to the inference server, `local` and `direct` own a network (the worker's batch at once, or one
position a call: the baseline), `rollout` plays random games to the end, `test` hashes the row. A worker's loop is the
same code for all of them.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from grove.common.rng import derive
from grove.game.contract import Game
from grove.inference_server import ZmqClient
from grove.inference_server.batching.slots import DEFAULT
from grove.inference_server.interface.client import Client
from grove.inference_server.interface.rows import RowSpec
from grove.mcts import LeafRows
from grove.workers.selfplay.row_kernels import draw_moves, hash_evaluate, state_keys

KINDS = ("server", "local", "direct", "rollout", "test")
NO_FAILURES = np.empty(0, np.int32)
RAGGED_ABOVE = 512
"""Games with more actions than this receive the logits of legal moves only."""


class Answer(NamedTuple):
    """The evaluation of the B rows of one ticket."""

    ticket: int
    logits: npt.NDArray[np.float32]
    """[B, A], or ragged: those of the legal moves only."""
    values: npt.NDArray[np.float32]
    """[B, P] seat-relative, mover first; or [B, 1] from a two-player zero-sum network."""
    version: str
    """Content hash of the model, or the evaluator's name."""
    failed: npt.NDArray[np.int32]
    """Positions within the ticket's rows that have no answer."""
    slot: int = 0
    """Model slot that games which begin now shall use; grows when a new model takes over between games."""


class Evaluator(Protocol):
    """Evaluates rows; several tickets may be outstanding."""

    slot: int
    """Model slot that the first games shall use."""

    def submit(self, rows: LeafRows) -> int:
        """Take rows (copied before returning) and return their ticket."""
        ...

    def collect(self, timeout_s: float) -> Answer | None:
        """Return the oldest finished ticket, waiting up to `timeout_s`, or None."""
        ...

    def set_window(self, tickets: int) -> None:
        """Say how many tickets the worker will keep outstanding from now on; 0 = none for a while."""
        ...

    def rejoin(self, epoch: str) -> None:
        """The server was started again and names its new life `epoch`: ask it anew for what is outstanding."""
        ...

    def release(self, slot: int) -> None:
        """Say that no more rows come for model slot `slot`, which answers have replaced by a newer one."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class ServedEvaluator:
    """Rows go to the inference server, by either channel."""

    def __init__(self, client: Client, num_actions: int) -> None:
        self.slot = client.slots[DEFAULT]
        self._client = client
        self._ragged = num_actions > RAGGED_ABOVE

    def submit(self, rows: LeafRows) -> int:
        """Send the rows; beyond 512 actions with their legal moves."""
        return self._client.submit(rows.observations, rows.slot, rows.legal() if self._ragged else None)

    def collect(self, timeout_s: float) -> Answer | None:
        """Return the oldest reply; raises ServerGone when the server has ended."""
        reply = self._client.collect(timeout_s)
        if reply is None:
            return None
        return Answer(reply.request, reply.logits, reply.values, reply.version, reply.failed, reply.slot)

    def set_window(self, tickets: int) -> None:
        """Tell the batching policy how many requests to expect from this worker."""
        self._client.set_window(tickets)

    def rejoin(self, epoch: str) -> None:
        """Shake hands with the restarted server at once; a client in its process ended with the former one."""
        if isinstance(self._client, ZmqClient):
            self._client.rejoin(epoch)

    def release(self, slot: int) -> None:
        """Let the server give the former model up."""
        self._client.release(slot)

    def close(self) -> None:
        """Leave the server."""
        self._client.close()


class OwnEvaluator:
    """Base of evaluators that compute in the worker itself, when their answer is collected."""

    slot = 0

    def __init__(self, num_actions: int, value_size: int, version: str) -> None:
        self._num_actions, self._value_size, self._version = num_actions, value_size, version
        self._queue: deque[tuple[int, Any]] = deque()
        self._tickets = 0

    def submit(self, rows: LeafRows) -> int:
        """Queue a copy of what `compute` needs."""
        self._tickets += 1
        self._queue.append((self._tickets, self.take(rows)))
        return self._tickets

    def collect(self, timeout_s: float) -> Answer | None:
        """Compute the oldest ticket now; None when there is none."""
        if not self._queue:
            return None
        ticket, taken = self._queue.popleft()
        logits, values = self.compute(taken)
        return Answer(ticket, logits, values, self._version, NO_FAILURES)

    def set_window(self, tickets: int) -> None:
        """No-op: there is no server."""

    def rejoin(self, epoch: str) -> None:
        """No server is asked."""

    def release(self, slot: int) -> None:
        """There is one model for good."""

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()

    def take(self, rows: LeafRows) -> Any:
        """Return a copy of what the evaluation needs: the observations [B, ...]."""
        return rows.observations.copy()

    def compute(self, taken: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return logits [B, A] and values [B, V] of what `take` returned."""
        raise NotImplementedError

    def _outputs(self, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        shape = (count, self._num_actions), (count, self._value_size)
        return np.zeros(shape[0], np.float32), np.zeros(shape[1], np.float32)


class HashEvaluator(OwnEvaluator):
    """The test evaluator: the same answer to the same row, everywhere."""

    def __init__(self, spec: RowSpec) -> None:
        super().__init__(spec.num_actions, spec.value_size, "test")

    def compute(self, taken: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Hash every row."""
        logits, values = self._outputs(len(taken))
        hash_evaluate(taken.reshape(len(taken), -1).view(np.uint8), logits, values)
        return logits, values


class NetworkEvaluator(OwnEvaluator):
    """A network of the worker's own: `batch=True` evaluates a ticket at once, False one position a call."""

    def __init__(self, spec: RowSpec, network: Any, batch: bool) -> None:
        super().__init__(spec.num_actions, spec.value_size, network.version)
        self._network, self._batch = network, batch

    def compute(self, taken: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Run the network."""
        step = len(taken) if self._batch else 1
        logits, values = self._outputs(len(taken))
        for start in range(0, len(taken), step):
            part = slice(start, start + step)
            logits[part], values[part] = self._network.evaluate(taken[part])
        return logits, values


class RolloutEvaluator(OwnEvaluator):
    """Plays `playouts` random games from every leaf: equal priors, the mean outcome as value."""

    def __init__(self, game: Game, playouts: int = 1, seed: int = 0) -> None:
        super().__init__(game.num_actions, game.num_players, "rollout")
        self._game, self._playouts = game, playouts
        self._seed = np.uint64(seed)

    def take(self, rows: LeafRows) -> Any:
        """Random games need the states themselves."""
        return rows.states()

    def compute(self, taken: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return zero logits and the mean utilities of random games, seat-relative."""
        logits, values = self._outputs(len(taken))
        mover = np.empty(len(taken), np.int8)
        self._game.to_play(taken, mover)
        for playout in range(self._playouts):
            values += self._play_out(taken.copy(), playout)
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
