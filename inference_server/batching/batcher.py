"""The thread-safe shell around the policy: clients push rows, lanes pull batches.

One lock guards everything; there is no thread of its own. Whoever causes an event runs the policy, and a lane that
waits for work also keeps the policy's clock. Rows are copied once, from the client's array or the received frame
straight into the pending batch's host buffer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from grove.common.errors import MessageError, ServerGone
from grove.inference_server.batching.pending_batches import Batch, PendingBatches
from grove.inference_server.batching.policy import Limits, Policy, PolicyKind, Wait
from grove.inference_server.batching.request import ClientHandle, Request
from grove.inference_server.interface.client import DEFAULT, Floats, Rows
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.interface.settings import ServerSettings
from grove.inference_server.interface.stats import Stats

_MOST_PROBLEMS = 100
_NEVER = 1 << 62  # nanoseconds; later than any wake-up


class Batcher:
    """Gathers rows of many clients into batches for lanes and hands the results back."""

    def __init__(
        self,
        spec: RowSpec,
        settings: ServerSettings,
        buckets: tuple[int, ...],
        lanes: int,
        new_buffer: Callable[[], Rows],
        policy: PolicyKind = Policy,
    ) -> None:
        """`new_buffer` returns an uninitialised host array [top bucket, *observation_shape]."""
        limits = Limits(
            buckets=buckets,
            max_delay_ns=settings.max_delay_us * 1000,
            idle_after_ns=settings.idle_after_ms * 1_000_000,
            min_share_rows=settings.min_share_rows,
        )
        self.spec = spec
        self.settings = settings
        self.stats = Stats(lanes)
        self.fault = ""
        """Why nothing can be computed any more, empty as a rule."""
        self.problems: deque[str] = deque(maxlen=_MOST_PROBLEMS)
        """Lines about faults for people; whoever shows them takes them out."""
        self.closed = False
        self.draining = False
        self.lock = threading.Lock()
        self._policy = policy(limits)
        self._pending = PendingBatches(buckets[-1], new_buffer)
        self._weights = {DEFAULT: 0}  # name of a model -> the weights that answer its rows from now on
        self._clients: dict[int, ClientHandle] = {}
        self._next_key = 0
        self._lanes = [threading.Condition(self.lock) for _ in range(lanes)]
        self._assigned: list[Batch | None] = [None] * lanes
        self._armed_ns = _NEVER  # when the next waiting lane wakes by itself
        self._in_flight: dict[int, int] = {}  # weights -> batches dispatched and not yet completed; no zeros
        self._settled = threading.Condition(self.lock)  # a batch ended or a request was answered

    # Clients

    def join(self, client: ClientHandle, window: int) -> None:
        """Admit a client that keeps up to `window` requests outstanding.

        Raises:
            ServerGone: the server is ending.
        """
        with self.lock:
            self._check_open(client)
            client.key = self._next_key
            self._next_key += 1
            self._clients[client.key] = client
            self._policy.client_joined(client.key, window)

    def _check_open(self, client: ClientHandle) -> None:
        if self.closed or self.draining or client.left:
            raise ServerGone("the inference server is ending and takes no more rows; start it again")

    def submit(self, request: Request, rows: Rows, model: str) -> None:
        """Copy the checked rows of a new request into the pending batch of the model of that name.

        Raises:
            MessageError: there is no such model.
            ServerGone: the server is ending.
            Exception: whatever a new host buffer raises; nothing was taken.
        """
        client, now_ns = request.client, request.arrived_ns
        with self.lock:
            self._check_open(client)
            weights = self._weights.get(model)
            if weights is None:
                raise MessageError(f"there is no model {model!r} here, only {', '.join(self._weights)}")
            self._pending.add(request, rows, weights)
            client.outstanding += 1
            self._policy.rows_arrived(client.key, now_ns)
            self._run_policy(now_ns)

    def set_window(self, client: ClientHandle, window: int) -> None:
        """The client will keep up to `window` requests outstanding from now on."""
        with self.lock:
            self._policy.window_changed(client.key, window)
            self._run_policy(time.monotonic_ns())

    def blocked_locked(self, client: ClientHandle, blocked: bool) -> None:
        """The client waits for an answer and sends nothing before it (or no longer). The caller holds the lock."""
        self._policy.client_blocked(client.key, blocked)
        if blocked:
            self._run_policy(time.monotonic_ns())

    def leave(self, client: ClientHandle) -> None:
        """The client is gone for good; nothing is delivered to it any more."""
        with self.lock:
            client.left = True
            self._clients.pop(client.key, None)
            self._policy.client_left(client.key)
            self._run_policy(time.monotonic_ns())

    # Lanes

    def next_batch(self, lane: int, timeout_s: float) -> Batch | None:
        """Wait up to `timeout_s` for a batch for `lane`; None when there is none or the server has closed."""
        with self.lock:
            deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
            self._policy.lane_free(lane)
            self._await_batch(lane, deadline_ns)
            batch, self._assigned[lane] = self._assigned[lane], None
            if batch is None:
                self._policy.lane_busy(lane)
            self._run_policy(time.monotonic_ns())  # another lane may have to keep the clock now
            return batch

    def _await_batch(self, lane: int, deadline_ns: int) -> None:
        now_ns = time.monotonic_ns()
        until_ns = self._carry_out(now_ns)
        while self._assigned[lane] is None and now_ns < deadline_ns and not self.closed:
            wake_ns = min(until_ns, deadline_ns)
            self._armed_ns = min(self._armed_ns, wake_ns)
            self._lanes[lane].wait(max(wake_ns - now_ns, 0) / 1e9)
            self._armed_ns = _NEVER
            now_ns = time.monotonic_ns()
            if self._assigned[lane] is None:
                until_ns = self._carry_out(now_ns)

    def complete(self, batch: Batch, logits: Floats, values: Floats) -> None:
        """Hand the outputs (copied here) to the requests of `batch`; its `failed` rows are answered as failed.

        Raises:
            ValueError: the arrays have other shapes; nothing was handed out.
        """
        expected = (batch.rows, self.spec.num_actions), (batch.rows, self.spec.value_size)
        if (logits.shape, values.shape) != expected:
            raise ValueError(f"the network returned {logits.shape} and {values.shape}, expected {expected}")
        logits = np.array(logits, np.float32)  # one copy a batch: answers keep slices of it
        values = np.array(values, np.float32)
        if batch.failed:
            logits[list(batch.failed)] = values[list(batch.failed)] = 0
        pieces = [part.request.slice_of(part, logits, values) for part in batch.parts]
        with self.lock:
            if len(batch.failed) < batch.rows:
                self.stats.batch_done(batch.lane, batch.rows - len(batch.failed), batch.bucket, batch.compute_us)
            self.stats.failed_rows += len(batch.failed)
            try:
                self._hand_out(batch, pieces)
            except Exception as error:  # half of it is handed out: it cannot be computed again
                self._break_down(f"answers cannot be handed out ({type(error).__name__}: {error})")
            self._settle(batch)

    def _hand_out(self, batch: Batch, pieces: list[tuple[Floats, Floats]]) -> None:
        for part, piece in zip(batch.parts, pieces, strict=True):
            request = part.request
            request.take(part, piece, self.spec)
            request.version = batch.version
            if batch.failed:
                request.mark_failed(part, batch.failed, batch.error)
            if not request.remaining:
                self._deliver(request, batch)

    def _deliver(self, request: Request, batch: Batch) -> None:
        queue_us = max(batch.dispatched_ns - request.arrived_ns, 0) // 1000
        self.stats.request_done(queue_us)
        client = request.client
        client.outstanding -= 1
        self._policy.reply_delivered(client.key, time.monotonic_ns())
        if not client.left:
            client.deliver(request.answer(batch.rows, queue_us, batch.compute_us))

    def _settle(self, batch: Batch) -> None:
        self._pending.recycle(batch)
        self._in_flight[batch.weights] -= 1
        if not self._in_flight[batch.weights]:
            del self._in_flight[batch.weights]
        self._settled.notify_all()

    # The whole

    def drain(self, timeout_s: float) -> bool:
        """Take no more rows, send off what waits; return whether every request was answered in time."""
        with self.lock:
            self.draining = True
            self._policy.drain()
            self._run_policy(time.monotonic_ns())
            return self._settled.wait_for(lambda: not self._in_flight and not self._pending.rows, timeout_s)

    def close(self) -> None:
        """Wake everybody; lanes get no batch any more and waiting clients learn that the server has ended."""
        with self.lock:
            self.closed = True
            for condition in self._lanes:
                condition.notify_all()
            for client in self._clients.values():
                client.wake()

    def snapshot(self) -> dict[str, Any]:
        """Return all counters and the gauges."""
        with self.lock:
            return {
                **self.stats.snapshot(),
                "reasons": dict(self._policy.reasons),
                "clients": len(self._clients),
                "live_clients": self._policy.live_clients,
                "waiting_rows": self._pending.rows,
                "largest_batch": self._policy.buckets[-1],
            }

    # Models

    def serve(self, model: str, weights: int) -> None:
        """Let `weights` answer the rows that arrive for `model` from now on; a new name is a new model."""
        with self.lock:
            self._weights[model] = weights

    def uses(self, weights: int) -> bool:
        """Whether rows have come, or will come, for `weights` and are not answered yet."""
        with self.lock:
            return weights in self._weights.values() or weights in self._in_flight or self._pending.waits(weights)

    # Faults

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes in use, ascending rows."""
        return self._policy.buckets

    def limit_rows(self, rows: int) -> None:
        """Form no batch of more than `rows` rows, one of the buckets, any more: the device's memory has no room."""
        with self.lock:
            former = self._policy.buckets[-1]
            if rows >= former:
                return
            self._policy.limit_rows(rows)
            self._pending.limit_rows(rows)
        self.problem(f"the device is out of memory with batches of {former} rows: at most {rows} rows from now on")

    def break_down(self, fault: str) -> None:
        """The device or a lane is done for: say so, for the owner to end the server."""
        with self.lock:
            self._break_down(fault)

    def _break_down(self, fault: str) -> None:
        if not self.fault:
            self.fault = fault
            self.problems.append(fault)

    def problem(self, text: str) -> None:
        """Keep a line about a fault that people should see."""
        with self.lock:
            self.problems.append(text)

    def count_error(self, cause: str, times: int = 1) -> None:
        """Count faults that reached no batch."""
        with self.lock:
            self.stats.error(cause, times)

    def count_resend(self) -> None:
        """Count a repeated request."""
        with self.lock:
            self.stats.resends += 1

    # The policy at work; the caller holds the lock

    def _run_policy(self, now_ns: int) -> None:
        """Carry out all decisions and see that a waiting lane wakes in time for the next one."""
        if self._carry_out(now_ns) < self._armed_ns:
            self._lanes[self._policy.next_lane].notify()

    def _carry_out(self, now_ns: int) -> int:
        """Carry out all decisions and return the time of the next one (never, when an event must come first)."""
        while self._can_cut():
            decision = self._policy.decide(self._pending.queues(), now_ns)
            if isinstance(decision, Wait):
                return _NEVER if decision.until_ns is None else decision.until_ns
            batch = self._pending.take(decision.weights, decision.rows)
            batch.lane, batch.bucket, batch.dispatched_ns = decision.lane, decision.bucket, now_ns
            self._in_flight[batch.weights] = self._in_flight.get(batch.weights, 0) + 1
            self._assigned[decision.lane] = batch
            self._armed_ns = _NEVER  # that lane no longer keeps the clock
            self._lanes[decision.lane].notify()
        return _NEVER

    def _can_cut(self) -> bool:
        """Whether there is a buffer in case a batch is cut; a batch under way may be about to give its buffer back."""
        try:
            self._pending.reserve()
        except Exception as error:
            if self._pending.rows and not self._in_flight:
                self._break_down(f"there is no memory for another batch ({type(error).__name__}: {error})")
            return False
        return True
