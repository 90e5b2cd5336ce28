"""The channel for search threads in the server's own process: no copies but one, no messages at all."""

from __future__ import annotations

import threading
from collections import deque

from grove.common.errors import MessageError, ServerGone
from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.request import ClientHandle, Request
from grove.inference_server.interface.client import DEFAULT, Answer, Legal, Rows, check_rows


class InprocClient:
    """A `Client` whose rows go straight into the pending batch; used by one thread.

    `collect` waits on a condition without the GIL. A client that waits while requests are outstanding can send nothing
    before its next answer, so the batching policy is told exactly that.
    """

    def __init__(self, batcher: Batcher, window: int) -> None:
        self._batcher = batcher
        self._max_window = window
        self._max_rows = batcher.settings.max_request_rows
        self._done: deque[Answer] = deque()
        self._ready = threading.Condition(batcher.lock)
        self._tickets = 0
        self._client = ClientHandle(self._deliver, self._ready.notify_all)
        batcher.join(self._client, window)

    def _deliver(self, answer: Answer) -> None:
        self._done.append(answer)
        self._ready.notify()

    def submit(self, observations: Rows, legal: Legal | None = None, model: str = DEFAULT) -> int:
        """See `Client.submit`."""
        check_rows(self._batcher.spec, self._max_rows, observations, legal)
        if self._client.outstanding + len(self._done) >= self._max_window:
            raise MessageError(f"{self._max_window} requests are outstanding already, the window; collect one first")
        self._tickets += 1
        self._batcher.submit(Request(self._client, self._tickets, len(observations), legal), observations, model)
        return self._tickets

    def collect(self, timeout_s: float) -> Answer | None:
        """See `Client.collect`."""
        with self._ready:
            if not self._done and self._client.outstanding and timeout_s > 0:
                self._wait(timeout_s)
            return self._done.popleft() if self._done else None

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

    def close(self) -> None:
        """See `Client.close`."""
        self._batcher.leave(self._client)
