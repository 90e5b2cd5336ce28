"""The channel for search threads in the server's own process: no copies but one, no messages at all."""

from __future__ import annotations

import threading
from collections import deque

from grove.common.errors import MessageError, ServerGone
from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.request import ClientHandle, Request
from grove.inference_server.interface.client import Legal, Reply, Rows, check_rows


class InprocClient:
    """A `Client` whose rows go straight into the pending batch; used by one thread.

    `collect` waits on a condition without the GIL. A client that waits while requests are outstanding can send nothing
    before its next answer, so the batching policy is told exactly that.
    """

    def __init__(self, batcher: Batcher, name: str, window: int) -> None:
        self._batcher = batcher
        self._max_window = window
        self._max_rows = batcher.settings.max_request_rows
        self._done: deque[Request] = deque()
        self._ready = threading.Condition(batcher.lock)
        self._next_id = 0
        self._client = ClientHandle(name, batcher.spec, self._deliver)
        self._client.wake = self._ready.notify_all
        batcher.join(self._client, window)

    def _deliver(self, request: Request) -> None:
        self._done.append(request)
        self._ready.notify()

    @property
    def slots(self) -> dict[str, int]:
        """See `Client.slots`."""
        return self._batcher.newest_slots()

    def submit(self, observations: Rows, slot: int = 0, legal: Legal | None = None) -> int:
        """See `Client.submit`."""
        check_rows(self._client.spec, self._max_rows, observations, legal)
        self._batcher.check_slot(slot)
        if self._client.outstanding + len(self._done) >= self._max_window:
            raise MessageError(f"{self._max_window} requests are outstanding already, the window; collect one first")
        request = Request(self._client, self._next_id, len(observations), legal)
        self._batcher.submit(request, observations, slot)
        self._next_id += 1
        return request.id

    def collect(self, timeout_s: float) -> Reply | None:
        """See `Client.collect`."""
        with self._ready:
            if not self._done and self._client.outstanding and timeout_s > 0:
                self._wait(timeout_s)
            if not self._done:
                return None
            request = self._done.popleft()
        return request.reply()

    def _wait(self, timeout_s: float) -> None:
        self._batcher.blocked_locked(self._client, True)
        self._ready.wait_for(lambda: self._done or self._batcher.closed, timeout_s)
        if not self._done:
            self._batcher.blocked_locked(self._client, False)
            if self._batcher.closed:
                raise ServerGone("the inference server has ended with requests outstanding; start it again")

    def set_window(self, requests: int) -> None:
        """See `Client.set_window`; never above the window the client was made with."""
        self._batcher.set_window(self._client, min(requests, self._max_window))

    def release(self, slot: int) -> None:
        """See `Client.release`."""
        self._batcher.release(self._client, slot)

    def close(self) -> None:
        """See `Client.close`."""
        self._batcher.leave(self._client)
