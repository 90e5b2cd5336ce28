"""The inference server: lanes, batcher and channels under one roof."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from common.errors import PoolError, ServerGone
from inference_server.batcher import Batcher
from inference_server.inproc import InprocClient
from inference_server.keys import ServerKeys
from inference_server.lanes import Backend, Lane
from inference_server.policy import Policy, PolicyKind
from inference_server.rows import RowSpec
from inference_server.settings import ServerSettings
from inference_server.zmq_channel import ZmqChannel


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
        """One lane per backend; all of them have the same buckets and the same model."""
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
        self._channels: list[ZmqChannel] = []
        self._started_ns = time.monotonic_ns()
        self._names = 0
        self._lock = threading.Lock()

    @property
    def model_version(self) -> str:
        """Content hash of the served model."""
        return self._backends[0].version

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
        for lane in self._lanes:
            if lane.ident is not None:
                lane.join()

    def __enter__(self) -> InferenceServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Clients

    def connect(self, window: int = 2, name: str | None = None) -> InprocClient:
        """Return a client for one thread of this process, with up to `window` requests outstanding.

        Raises:
            ServerGone: the server is ending.
        """
        with self._lock:
            self._names += 1
            return InprocClient(self._batcher, name or f"thread-{self._names}", window)

    def bind(self, endpoint: str, keys: ServerKeys | None = None) -> str:
        """Open `endpoint` (``ipc://PATH`` or ``tcp://127.0.0.1:PORT``, PORT may be ``*``); return the one clients use.

        With `keys` only clients of their list are let in, and other machines may be served: ``tcp://ADDRESS:PORT``.

        Raises:
            SettingError: the endpoint is in use, malformed, or, without keys, not on this machine.
            ServerGone: the server has closed.
        """
        if self._batcher.closed:
            raise ServerGone("the inference server has closed; make another one")
        channel = ZmqChannel(self._batcher, endpoint, self.epoch, lambda: self.model_version, keys)
        self._channels.append(channel)
        return channel.endpoint

    def client_gone(self, name: str) -> None:
        """A supervisor knows that the client of that name is dead: it stops counting at once."""
        for port in self._batcher.find(name):
            self._batcher.quiet(port)

    # Lanes

    @contextmanager
    def parked(self, timeout_s: float = 30.0) -> Iterator[bool]:
        """Keep all lanes still meanwhile; yields whether their batches ended within `timeout_s`."""
        try:
            yield self.park(timeout_s)
        finally:
            self.unpark()

    def park(self, timeout_s: float = 30.0) -> bool:
        """Give the lanes no more batches; return whether those under way ended within `timeout_s`."""
        return self._batcher.park(timeout_s)

    def unpark(self) -> None:
        """Undo one `park`."""
        self._batcher.unpark()

    # Figures

    def stats(self) -> dict[str, Any]:
        """Return a snapshot of all counters (see `inference_server.stats`); plain values only."""
        return {
            **self._batcher.snapshot(),
            "recompiles": sum(getattr(backend, "recompiles", 0) for backend in self._backends),
            "uptime_s": (time.monotonic_ns() - self._started_ns) / 1e9,
            "epoch": self.epoch,
            "model_version": self.model_version,
        }
