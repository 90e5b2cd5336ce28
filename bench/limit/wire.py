"""The wire alone: the server's channel and batcher with a backend that computes nothing, and the pool's clients."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from grove.bench.core.slices import cpu_seconds
from grove.bench.core.stage import Figures, Stage
from grove.common.errors import PoolError
from grove.game import load_game
from grove.game.contract import Game
from grove.inference_server import InferenceServer, RowSpec, ServerSettings, ZmqClient, private_endpoint
from grove.inference_server.batching.lanes import Backend
from grove.inference_server.interface.buckets import CPU_READY, buckets_up_to
from grove.mcts import NONE, ROOT, Forest, LeafRows, SearchSettings
from grove.workers.selfplay.evaluators import row_spec, submit

MOST_CLIENTS = 64
_WAIT_S = 10.0
_READY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class WireServer:
    """The job of the server's side; plain values."""

    row_spec: RowSpec
    settings: ServerSettings

    @contextmanager
    def make(self) -> Iterator[_Listening]:
        """Listen on a private endpoint."""
        with private_endpoint() as endpoint, InferenceServer(self.row_spec, self.backends(), self.settings) as server:
            server.wait_ready(_READY_S)
            yield _Listening(server.bind(endpoint))

    def backends(self) -> Sequence[Backend]:
        """Return what computes the rows, one for each lane."""
        return [NullBackend(self.row_spec, self.settings.max_batch)]


class _Listening:
    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def ready(self) -> dict[str, Any]:
        return {"endpoint": self._endpoint}

    def measure(self, what: str, seconds: float) -> Figures:
        """Nothing to do: its threads serve."""
        time.sleep(seconds)
        return {"seconds": seconds}


class NullBackend:
    """A network that takes no time: all logits and values are zero."""

    def __init__(self, spec: RowSpec, max_batch: int) -> None:
        """`max_batch`: rows of the largest batch."""
        self.buckets = buckets_up_to(max_batch, CPU_READY)
        self.depth = 1
        self._spec = spec
        self._logits = np.zeros((max_batch, spec.num_actions), np.float32)
        self._values = np.zeros((max_batch, spec.value_size), np.float32)

    def new_host_buffer(self) -> npt.NDArray[Any]:
        """Return a host array [top bucket, ...]."""
        return np.zeros((self.buckets[-1], *self._spec.observation_shape), self._spec.observation_dtype)

    def warm(self) -> None:
        """Nothing to prepare."""

    def done(self, handle: Any) -> bool:
        """Every batch is done at once."""
        return True

    def version_of(self, weights: int = 0) -> str:
        """All are the same: no weights."""
        return "0" * 16

    def prepare(self, model: Any) -> None:
        """No model changes anything."""

    def try_out(self, prepared: None) -> None:
        """Nothing to try."""

    def install(self, weights: int, prepared: None) -> None:
        """Nothing to keep."""

    def remove(self, weights: int) -> None:
        """Nothing was kept."""

    def close(self) -> None:
        """Nothing to give back."""

    def launch(self, buffer: npt.NDArray[Any], rows: int, bucket: int, weights: int = 0) -> Any:
        """Return how many rows were asked for."""
        return rows

    def finish(self, handle: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return zeros for the rows."""
        return self._logits[:handle], self._values[:handle]


@dataclass(frozen=True, kw_only=True)
class WireClient:
    """The job of one client: a worker that only sends and receives; plain values."""

    game_spec: str
    search: SearchSettings
    endpoint: str
    games: int
    """Games of a group, whose rows make one message."""
    groups: int
    """Messages outstanding at once."""

    @contextmanager
    def make(self) -> Iterator[_Sender]:
        """Connect."""
        game = load_game(self.game_spec)
        most = self.games * self.search.rows
        with closing(ZmqClient(self.endpoint, row_spec(game), window=self.groups, max_rows=most)) as client:
            client.set_window(0)
            yield _Sender(self, game, client)


class _Sender:
    def __init__(self, job: WireClient, game: Game, client: ZmqClient) -> None:
        self._forest, self._rows = first_rows(game, job.games, job.search)
        self._client, self._window = client, job.groups

    def ready(self) -> dict[str, Any]:
        return {"rows": len(self._rows.ids)}

    def measure(self, what: str, seconds: float) -> Figures:
        """Keep the window full for `seconds`, and wait for the last answers."""
        self._client.set_window(self._window)
        sent = answered = 0
        began = time.perf_counter()
        while (going := time.perf_counter() - began < seconds) or answered < sent:
            while going and sent - answered < self._window:
                submit(self._client, self._rows)
                sent += 1
            if self._client.collect(_WAIT_S) is None:
                raise PoolError(f"the wire alone gave no answer within {_WAIT_S:.0f} s")
            answered += 1
            if not going and answered < sent:
                self._client.set_window(sent - answered)
        took = time.perf_counter() - began
        self._client.set_window(0)
        return {"seconds": took, "messages": answered, "rows": answered * len(self._rows.ids)}


def first_rows(game: Game, games: int, search: SearchSettings) -> tuple[Forest, LeafRows]:
    """Return the rows that a group of `games` new games asks, and the forest that owns them."""
    forest = Forest(game, games, search)
    states = np.zeros(games, game.state_dtype)
    game.initial(np.arange(games, dtype=np.uint64), states)
    roots = np.zeros(games, ROOT)
    roots["tree"] = roots["key"] = np.arange(games)
    roots["target"], roots["action"] = search.simulations, NONE
    forest.set_roots(roots, states)
    return forest, forest.ask()


class Wire:
    """The supervisor's end of server and clients; use as a context manager."""

    def __init__(self, server: WireServer, client: WireClient, clients: int) -> None:
        """Start the server, then `clients` clients of it, whose `endpoint` it sets; returns when all are ready."""
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._server = stack.enter_context(Stage("wire", server, client.game_spec))
            self.endpoint = str(self._server.wait_ready()["endpoint"])
            job = replace(client, endpoint=self.endpoint)
            self._clients = [stack.enter_context(Stage("wire", job, client.game_spec)) for _ in range(clients)]
            self.rows = max(int(stage.wait_ready()["rows"]) for stage in self._clients)
            """Rows of each message."""
            self._stack = stack.pop_all()

    @property
    def processes(self) -> list[int]:
        """Process numbers of all."""
        return [number for stage in (self._server, *self._clients) for number in stage.processes]

    def measure(self, seconds: float) -> Figures:
        """Return `rows_per_second`, `messages_per_second` and `cpu_seconds` a row of a slice."""
        used = cpu_seconds(self.processes)
        for stage in self._clients:
            stage.begin("wire", seconds)
        done = [stage.end(seconds) for stage in self._clients]
        used = cpu_seconds(self.processes) - used
        rows = sum(part["rows"] for part in done)
        return {
            "rows_per_second": sum(part["rows"] / part["seconds"] for part in done),
            "messages_per_second": sum(part["messages"] / part["seconds"] for part in done),
            "cpu_seconds": used / rows,
        }

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
