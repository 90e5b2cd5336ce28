"""The batcher: rows in, batches out, slices back, with real threads; and the statistics."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from grove.common.errors import ServerGone
from grove.inference_server import ServerSettings
from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.pending_batches import Batch, PendingBatches
from grove.inference_server.batching.request import ClientHandle, Request
from grove.inference_server.batching.results import Results
from grove.inference_server.interface.stats import bin_microseconds, difference, percentile, summary, time_bin
from tests.support.arithmetic_network import SPEC, ArithmeticBackend, compute, random_legal, random_rows


class Bench:
    """A batcher with one client, driven by hand."""

    def __init__(self, lanes: int = 1, window: int = 4, **settings: int) -> None:
        backend = ArithmeticBackend(SPEC)
        self.batcher = Batcher(SPEC, ServerSettings(**settings), backend.buckets, lanes, backend.new_host_buffer)
        self.answered: list[Request] = []
        self.client = ClientHandle("hand", SPEC, self.answered.append)
        self.batcher.join(self.client, window)
        self.sent: dict[int, np.ndarray] = {}

    def submit(self, rows: int, ragged: bool = False) -> Request:
        number = len(self.sent)
        self.sent[number] = random_rows(SPEC, rows, number)
        request = Request(self.client, number, rows, random_legal(SPEC, rows, number) if ragged else None)
        observations = self.sent[number].copy()
        self.batcher.submit(request, observations, 0)
        observations[:] = 0  # the caller may use its array again at once
        return request

    def run(self, batch: Batch) -> None:
        logits, values = compute(SPEC, batch.buffer[: batch.rows])
        self.batcher.complete(batch, Results(logits, values, "v", 10))
        logits[:] = values[:] = np.nan  # the backend may use its arrays again at once

    def check(self) -> None:
        for request in self.answered:
            logits, values = compute(SPEC, self.sent[request.id])
            reply = request.reply()
            if request.legal is not None:
                counts = np.diff(request.legal[0])
                logits = logits[np.repeat(np.arange(len(counts)), counts), request.legal[1]]
            assert np.array_equal(reply.logits, logits)
            assert np.array_equal(reply.values, values)
            assert len(reply.failed) == 0


@pytest.mark.parametrize("ragged", [False, True])
def test_a_request_is_split_over_batches_and_comes_back_whole(ragged: bool) -> None:
    bench = Bench(window=3)
    for rows in (5, 70, 1):
        bench.submit(rows, ragged)
    sizes = []
    while len(bench.answered) < 3:
        batch = bench.batcher.next_batch(0, 60)
        sizes.append((batch.rows, batch.bucket))
        bench.run(batch)
    assert sizes == [(32, 32), (32, 32), (12, 16)]
    assert [request.id for request in bench.answered] == [0, 1, 2]
    assert bench.answered[1].batch_rows == 12
    bench.check()


def test_rows_are_shared_between_two_waiting_lanes() -> None:
    bench = Bench(lanes=2, window=2, min_share_rows=4)
    batches: dict[int, Batch | None] = {}
    threads = [
        threading.Thread(target=lambda lane=lane: batches.update({lane: bench.batcher.next_batch(lane, 60)}))
        for lane in (0, 1)
    ]
    for thread in threads:
        thread.start()
    while len(bench.batcher._waiting) < 2:
        time.sleep(0.001)
    bench.submit(5)
    bench.submit(20)
    for thread in threads:
        thread.join()
    assert sorted(batch.rows for batch in batches.values()) == [9, 16]
    for batch in batches.values():
        bench.run(batch)
    assert len(bench.answered) == 2
    bench.check()


def test_sharing_then_growing_keeps_every_row_in_order() -> None:
    bench = Bench(window=64, min_share_rows=1)
    random = np.random.default_rng(5)
    for _ in range(40):
        bench.submit(int(random.integers(1, 50)))
    total = sum(len(rows) for rows in bench.sent.values())
    while total:
        rows = int(random.integers(1, min(total, 32) + 1))
        batch = bench.batcher._rows.take(0, rows)
        assert batch.rows == rows
        batch.lane, batch.bucket = 0, 32
        bench.batcher._in_flight[0] = 1
        bench.run(batch)
        total -= rows
    assert len(bench.answered) == 40
    bench.check()


def test_a_batch_is_cut_once_a_buffer_is_there() -> None:
    """Without memory for one, rows wait for a buffer of a batch under way; with none under way the server gives up."""
    bench = Bench(lanes=2, window=2, min_share_rows=1, max_delay_us=60_000_000)
    memory = [2]

    def new_buffer() -> np.ndarray:
        memory[0] -= 1
        if memory[0] < 0:
            raise MemoryError("no room")
        return np.empty((32, *SPEC.observation_shape), np.uint8)

    bench.batcher._rows = PendingBatches(32, new_buffer)
    bench.submit(32)
    running = bench.batcher.next_batch(0, 0)
    bench.submit(20)
    with pytest.raises(MemoryError, match="no room"):
        bench.submit(20)
    del bench.sent[2]
    assert bench.batcher.snapshot()["waiting_rows"] == 20
    bench.batcher.set_window(bench.client, 1)
    bench.batcher._rows._spare.clear()
    assert bench.batcher.next_batch(1, 0) is None
    assert bench.batcher.fault == ""
    bench.run(running)
    bench.run(bench.batcher.next_batch(1, 0))
    assert len(bench.answered) == 2
    bench.check()
    bench.batcher._rows._spare.clear()
    assert bench.batcher.next_batch(0, 0) is None
    assert bench.batcher.fault == ""  # nothing waits for it
    memory[0] = 1
    bench.submit(5)
    assert bench.batcher.fault == "there is no memory for another batch (MemoryError: no room)"


def test_the_delay_is_kept_by_a_waiting_lane() -> None:
    bench = Bench(window=2, max_delay_us=50_000)
    batches: list[Batch | None] = []
    thread = threading.Thread(target=lambda: batches.append(bench.batcher.next_batch(0, 60)))
    thread.start()
    bench.submit(3)
    thread.join()
    assert batches[0] is not None
    assert bench.batcher.snapshot()["reasons"]["delay"] == 1


def test_a_lane_that_withdraws_hands_on_the_clock() -> None:
    bench = Bench(lanes=2, window=2, max_delay_us=200_000)
    batches: list[Batch | None] = []
    patient = threading.Thread(target=lambda: batches.append(bench.batcher.next_batch(0, 60)))
    patient.start()
    hasty = threading.Thread(target=lambda: bench.batcher.next_batch(1, 0.1))
    hasty.start()
    time.sleep(0.02)
    bench.submit(3)
    hasty.join()
    patient.join(60)
    assert batches
    assert batches[0].rows == 3


def failed(bench: Bench, batch: Batch, rows: range) -> None:
    """Complete `batch` with real answers, but for `rows`."""
    logits, values = compute(SPEC, batch.buffer[: batch.rows])
    bench.batcher.complete(batch, Results(logits, values, "v", 10, tuple(rows), "no luck"))


def test_a_failed_batch_fails_only_its_rows() -> None:
    bench = Bench(window=1)
    bench.submit(40)
    bench.run(bench.batcher.next_batch(0, 60))
    failed(bench, bench.batcher.next_batch(0, 60), range(8))
    reply = bench.answered[0].reply()
    logits, _ = compute(SPEC, bench.sent[0])
    assert list(reply.failed) == list(range(32, 40))
    assert np.array_equal(reply.logits[:32], logits[:32])
    assert not reply.logits[32:].any()
    assert reply.error == "no luck"
    snapshot = bench.batcher.snapshot()
    assert (snapshot["rows"], snapshot["failed_rows"]) == (32, 8)


def test_results_of_another_shape_are_refused_and_the_batch_can_be_failed() -> None:
    bench = Bench(window=1)
    bench.submit(4)
    batch = bench.batcher.next_batch(0, 60)
    with pytest.raises(ValueError, match="expected"):
        bench.batcher.complete(batch, Results(np.zeros((4, 8), np.float32), np.zeros((4, 1), np.float32), "v"))
    failed(bench, batch, range(4))
    assert list(bench.answered[0].reply().failed) == [0, 1, 2, 3]


def test_answers_that_cannot_be_handed_out_end_the_server() -> None:
    bench = Bench(window=1)
    bench.submit(4)

    def deliver(request: Request) -> None:
        raise MemoryError("no room")

    bench.client.deliver = deliver
    bench.run(bench.batcher.next_batch(0, 60))
    assert bench.batcher.fault == "answers cannot be handed out (MemoryError: no room)"
    assert bench.batcher.drain(0)


def test_parked_lanes_get_nothing_until_unparked() -> None:
    bench = Bench(window=1)
    assert bench.batcher.park(60)
    bench.submit(4)
    assert bench.batcher.next_batch(0, 0.05) is None
    threading.Timer(0.05, bench.batcher.unpark).start()
    batch = bench.batcher.next_batch(0, 60)
    assert batch.rows == 4
    assert not bench.batcher.park(0.01)  # a batch is under way
    threading.Timer(0.05, bench.run, [batch]).start()
    assert bench.batcher.park(60)


def test_draining_answers_what_came_and_takes_no_more() -> None:
    bench = Bench(window=9)
    bench.submit(4)
    assert not bench.batcher.drain(0)
    with pytest.raises(ServerGone):
        bench.submit(4)
    bench.run(bench.batcher.next_batch(0, 60))
    assert bench.batcher.drain(60)
    assert bench.batcher.snapshot()["reasons"]["shutdown"] == 1
    bench.check()


def test_the_answers_of_a_client_that_left_are_dropped() -> None:
    bench = Bench(window=1)
    bench.submit(4)
    bench.batcher.leave(bench.client)
    bench.run(bench.batcher.next_batch(0, 60))
    assert not bench.answered
    assert bench.batcher.snapshot()["clients"] == 0


def test_time_bins_are_monotone_and_narrow() -> None:
    bins = [time_bin(us) for us in range(20_000)]
    assert all(0 <= later - earlier <= 1 for earlier, later in itertools.pairwise(bins))
    for us in (1, 3, 4, 5, 100, 777, 123_456, 3_000_000):
        assert abs(bin_microseconds(time_bin(us)) - us) <= max(us * 0.15, 0.5)
    assert time_bin(1 << 62) == time_bin(1 << 50)


def test_percentiles() -> None:
    counts = [0] * 128
    for us in range(1, 1001):
        counts[time_bin(us)] += 1
    assert percentile(counts, 0.5) == pytest.approx(500, rel=0.15)
    assert percentile(counts, 0.99) == pytest.approx(990, rel=0.15)
    assert percentile([0] * 128, 0.5) == 0


def test_two_snapshots_give_the_figures_between_them() -> None:
    bench = Bench(window=1)
    bench.submit(8)
    bench.run(bench.batcher.next_batch(0, 60))
    before = bench.batcher.snapshot()
    bench.submit(6)
    bench.run(bench.batcher.next_batch(0, 60))
    between = difference(bench.batcher.snapshot(), before)
    assert (between["rows"], between["bucket_rows"], between["batches"], between["requests"]) == (6, 8, 1, 1)
    assert between["reasons"]["all_blocked"] == 1
    assert between["clients"] == 1
    assert between["lanes"][0]["rows"] == 6
    figures = summary(between)
    assert (figures["mean_batch_rows"], figures["fill"]) == (6, 0.75)
    assert figures["compute_us_p50"] == pytest.approx(10, rel=0.15)
