"""The inference server: lanes, batcher and channels in one object."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from grove.common.errors import PoolError, ServerGone
from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.lanes import Backend, Lane
from grove.inference_server.batching.policy import Policy, PolicyKind
from grove.inference_server.channels.inproc import InprocClient
from grove.inference_server.channels.keys import ServerKeys
from grove.inference_server.channels.zmq_channel import ZmqChannel
from grove.inference_server.interface.client import DEFAULT
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.interface.settings import ServerSettings
from grove.inference_server.models.models import Models

_LAST_S = 1.0
"""Longest wait for a lane of a server that gives up."""
_LOOK_S = 1.0
"""Longest time that counts between two looks at the lanes."""


class InferenceServer:
    """Owns the lanes and evaluates the rows of all clients in large batches.

    A context manager: entering starts the lanes, leaving closes everything. It prints nothing and touches no signals.

        with InferenceServer(row_spec, backends) as server:
            endpoint = server.bind("tcp://127.0.0.1:*")   # worker processes: ZmqClient(endpoint, row_spec)
            client = server.connect(window=2)             # a search thread of this process
    """

    def __init__(
        self,
        row_spec: RowSpec,
        backends: Sequence[Backend],
        settings: ServerSettings | None = None,
        policy: PolicyKind = Policy,
    ) -> None:
        """One lane per backend; all of them have the same buckets and the same model, `default`."""
        self.row_spec = row_spec
        self.settings = settings or ServerSettings()
        self.epoch = uuid.uuid4().hex
        """Names this life of the server: a restarted one has another epoch."""
        self._backends = list(backends)
        first = self._backends[0]
        self._batcher = Batcher(
            row_spec, self.settings, first.buckets, len(self._backends), first.new_host_buffer, policy
        )
        self._lanes = [Lane(index, backend, self._batcher) for index, backend in enumerate(self._backends)]
        self._models = Models(self._batcher, self._backends)
        self._stuck = [(-1, 0.0)] * len(self._lanes)  # of each lane its progress, and seconds without any
        self._looked_s = time.monotonic()
        self._channels: list[ZmqChannel] = []
        self._started_ns = time.monotonic_ns()
        self.models_folder = ""
        """Folder that is watched for new models, told to whoever asks the server for it; empty without one."""

    @property
    def model_version(self) -> str:
        """Content hash of the model `default`."""
        return self._models.versions()[DEFAULT]

    # Life

    def start(self) -> None:
        """Start the lanes; each makes its backend ready in its own thread."""
        for lane in self._lanes:
            lane.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until every lane can compute; return whether they can within `timeout_s`.

        Raises:
            PoolError: a backend could not be made ready; its fault is the cause.
        """
        deadline = time.monotonic() + timeout_s
        for lane in self._lanes:
            if not lane.warmed.wait(max(deadline - time.monotonic(), 0)):
                return False
            if lane.fault is not None:
                raise PoolError(f"a lane could not start: {lane.fault}; see `grove doctor`") from lane.fault
        return True

    def drain(self, timeout_s: float) -> bool:
        """Take no more rows and answer those that came; return whether all were answered within `timeout_s`."""
        drained = self._batcher.drain(timeout_s)
        for channel in self._channels:
            channel.flush(timeout_s)
        return drained

    def close(self) -> None:
        """End lanes and channels. Clients with outstanding requests get `ServerGone`. May be called twice."""
        self._batcher.close()
        for channel in self._channels:
            channel.close()
        for lane, backend in zip(self._lanes, self._backends, strict=True):
            if lane.ident is not None:
                lane.join(_LAST_S if self._batcher.fault else None)
            if not lane.is_alive():  # otherwise it hangs in there
                backend.close()

    def __enter__(self) -> InferenceServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Clients

    def connect(self, window: int = 2) -> InprocClient:
        """Return a client for one thread of this process, with up to `window` requests outstanding.

        Raises:
            ServerGone: the server is ending.
        """
        return InprocClient(self._batcher, window)

    def bind(self, endpoint: str, keys: ServerKeys | None = None) -> str:
        """Open `endpoint` (``ipc://PATH`` or ``tcp://127.0.0.1:PORT``, PORT may be ``*``); return the one clients use.

        With `keys` only clients of their list are let in, and other machines may be served: ``tcp://ADDRESS:PORT``.

        Raises:
            SettingError: the endpoint is in use, malformed, or, without keys, not on this machine.
            ServerGone: the server has closed.
        """
        if self._batcher.closed:
            raise ServerGone("the inference server has closed; make another one")
        channel = ZmqChannel(self._batcher, endpoint, self._about, keys)
        self._channels.append(channel)
        return channel.endpoint

    def _about(self) -> dict[str, Any]:
        return {"rows": self.row_spec.to_dict(), "models_folder": self.models_folder, "models": self.models()}

    # Models

    def models(self) -> dict[str, str]:
        """Return the models by name, each with its content hash."""
        return self._models.versions()

    def swap(self, model: Any, name: str = DEFAULT) -> None:
        """Serve `model` (a `LoadedModel`) under `name`, a new one where there is none of that name.

        The rows that arrived before get the former model, those that arrive from now on the new one; no lane stops.
        Takes as long as making the weights ready and trying them, so call it from a thread of your own.

        Raises:
            ModelError: the model does not fit, holds NaN, or its answers to random rows are not finite or not the same
                twice; the former one serves on.
        """
        self._models.take(model, name)

    def tidy(self) -> None:
        """Give up former models that nobody needs any more; call it now and then."""
        self._models.tidy()

    # Faults

    def check(self) -> None:
        """Raise when nothing can be computed any more: call it now and then, and end the process.

        Raises:
            PoolError: a lane hangs or has ended, a channel has, or the device computes nothing any more.
        """
        self._look_for_hanging_lanes()
        if self._batcher.fault:
            raise PoolError(f"the inference server gives up: {self._batcher.fault}")

    def _look_for_hanging_lanes(self) -> None:
        """Give up when a batch has been under way for `hang_after_s` without any progress.

        A look counts for a second at most: a process that was stopped and goes on is not taken for a hanging one.
        """
        now_s = time.monotonic()
        passed_s, self._looked_s = min(now_s - self._looked_s, _LOOK_S), now_s
        for index, lane in enumerate(self._lanes):
            progress, (seen, stuck_s) = lane.progress, self._stuck[index]
            self._stuck[index] = progress, stuck_s + passed_s if 0 <= progress == seen else 0.0
            if self._stuck[index][1] >= self.settings.hang_after_s:
                self._batcher.count_error("hung_lane")
                self._batcher.break_down(f"lane {index} has computed nothing for {self.settings.hang_after_s} s")

    def new_problems(self) -> list[str]:
        """Return the lines about faults that were not returned before."""
        problems = self._batcher.problems
        return [problems.popleft() for _ in range(len(problems))]

    def count_error(self, cause: str) -> None:
        """Count a fault by a short word from a bounded set."""
        self._batcher.count_error(cause)

    def tell_problem(self, text: str) -> None:
        """Add a line that `new_problems` shall return."""
        self._batcher.problem(text)

    # Figures

    def stats(self) -> dict[str, Any]:
        """Return a snapshot of all counters (see `grove.inference_server.interface.stats`); plain values only."""
        return {
            **self._batcher.snapshot(),
            "recompiles": sum(getattr(backend, "recompiles", 0) for backend in self._backends),
            "uptime_s": (time.monotonic_ns() - self._started_ns) / 1e9,
            "epoch": self.epoch,
            "model_version": self.model_version,
            "models": self.models(),
            "swaps": self._models.taken,
        }
