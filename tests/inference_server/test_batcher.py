"""The batcher driven by hand: rows in, batches out, slices back; and the statistics."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from grove.common.errors import MessageError, ServerGone
from grove.inference_server import Answer, ServerSettings
from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.pending_batches import Batch
from grove.inference_server.batching.request import ClientHandle, Request
from grove.inference_server.interface.stats import bin_microseconds, difference, percentile, summary, time_bin
from tests.support.arithmetic_network import SPEC, ArithmeticBackend, compute, random_legal, random_rows


class Bench:
    """A batcher with one client, driven by hand."""

    def __init__(self, lanes: int = 1, window: int = 4, **settings: int) -> None:
        backend = ArithmeticBackend(SPEC)
        self.memory = 1 << 30  # buffers that there is room for

        def new_buffer() -> np.ndarray:
            self.memory -= 1
            if self.memory < 0:
                raise MemoryError("no room")
            return backend.new_host_buffer()

        self.batcher = Batcher(SPEC, ServerSettings(**settings), backend.buckets, lanes, new_buffer)
        self.answers: list[Answer] = []
        self.client = ClientHandle(self.answers.append)
        self.batcher.join(self.client, window)
        self.sent: dict[int, tuple[np.ndarray, Request]] = {}

    def submit(self, rows: int, ragged: bool = False, model: str = "default") -> None:
        number = len(self.sent)
        observations = random_rows(SPEC, rows, number)
        request = Request(self.client, number, rows, random_legal(SPEC, rows, number) if ragged else None)
        self.batcher.submit(request, observations, model)
        self.sent[number] = observations.copy(), request
        observations[:] = 0  # the caller may use its array again at once

    def take(self, lane: int = 0) -> Batch:
        batch = self.batcher.next_batch(lane, 60)
        assert batch is not None
        return batch

    def run(self, batch: Batch, failed: Sequence[int] = ()) -> None:
        logits, values = compute(SPEC, batch.buffer[: batch.rows])
        batch.version, batch.compute_us, batch.failed = "v", 10, tuple(failed)
        batch.error = "no luck" if failed else ""
        self.batcher.complete(batch, logits, values)
        logits[:] = values[:] = np.nan  # the backend may use its arrays again at once

    def check(self) -> None:
        for answer in self.answers:
            rows, request = self.sent[answer.ticket]
            logits, values = compute(SPEC, rows)
            if request.legal is not None:
                counts = np.diff(request.legal[0])
                logits = logits[np.repeat(np.arange(len(counts)), counts), request.legal[1]]
            assert np.array_equal(answer.logits, logits)
            assert np.array_equal(answer.values, values)
            assert len(answer.failed) == 0


@pytest.mark.parametrize("ragged", [False, True])
def test_a_request_is_split_over_batches_and_comes_back_whole(ragged: bool) -> None:
    bench = Bench(window=3)
    for rows in (5, 70, 1):
        bench.submit(rows, ragged)
    sizes = []
    while len(bench.answers) < 3:
        batch = bench.take()
        sizes.append((batch.rows, batch.bucket))
        bench.run(batch)
    assert sizes == [(32, 32), (32, 32), (12, 16)]
    assert [answer.ticket for answer in bench.answers] == [0, 1, 2]
    assert bench.answers[1].batch_rows == 12
    bench.check()


def test_rows_are_shared_between_two_waiting_lanes() -> None:
    bench = Bench(lanes=2, window=2, min_share_rows=4)
    batches: list[Batch] = []
    threads = [threading.Thread(target=lambda lane=lane: batches.append(bench.take(lane))) for lane in (0, 1)]
    for thread in threads:
        thread.start()
    bench.submit(5)
    bench.submit(20)
    for thread in threads:
        thread.join()
    assert sum(batch.rows for batch in batches) == 25
    for batch in batches:
        bench.run(batch)
    assert len(bench.answers) == 2
    bench.check()


def test_a_batch_is_cut_once_a_buffer_is_there() -> None:
    """Without memory for one, rows wait for a buffer of a batch under way; with none under way the server gives up."""
    bench = Bench(lanes=2, window=2, min_share_rows=1, max_delay_us=60_000_000)
    bench.memory = 2
    bench.submit(32)
    running = bench.take(0)
    bench.submit(20)
    with pytest.raises(MemoryError, match="no room"):
        bench.submit(20)
    assert bench.batcher.snapshot()["waiting_rows"] == 20
    bench.batcher.set_window(bench.client, 1)
    assert bench.batcher.next_batch(1, 0) is None
    assert bench.batcher.fault == ""
    bench.run(running)
    bench.run(bench.take(1))
    assert len(bench.answers) == 2
    bench.check()


def test_a_server_without_memory_for_any_batch_gives_up() -> None:
    bench = Bench(window=1)
    bench.memory = 1
    bench.submit(5)
    assert bench.batcher.fault == "there is no memory for another batch (MemoryError: no room)"


def test_the_delay_is_kept_by_a_waiting_lane_also_after_another_withdrew() -> None:
    bench = Bench(lanes=2, window=2, max_delay_us=50_000)
    batches: list[Batch | None] = []
    patient = threading.Thread(target=lambda: batches.append(bench.batcher.next_batch(0, 60)))
    hasty = threading.Thread(target=lambda: bench.batcher.next_batch(1, 0.01))
    patient.start()
    hasty.start()
    hasty.join()
    bench.submit(3)
    patient.join()
    assert [batch and batch.rows for batch in batches] == [3]
    assert bench.batcher.snapshot()["reasons"]["delay"] == 1


def test_a_failed_batch_fails_only_its_rows() -> None:
    bench = Bench(window=1)
    bench.submit(40)
    bench.run(bench.take())
    bench.run(bench.take(), failed=range(8))
    (answer,) = bench.answers
    assert list(answer.failed) == list(range(32, 40))
    assert np.array_equal(answer.logits[:32], compute(SPEC, bench.sent[0][0])[0][:32])
    assert not answer.logits[32:].any()
    assert answer.error == "no luck"
    snapshot = bench.batcher.snapshot()
    assert (snapshot["rows"], snapshot["failed_rows"]) == (32, 8)


def test_outputs_of_another_shape_are_refused_and_the_batch_can_be_failed() -> None:
    bench = Bench(window=1)
    bench.submit(4)
    batch = bench.take()
    with pytest.raises(ValueError, match="expected"):
        bench.batcher.complete(batch, np.zeros((4, 8), np.float32), np.zeros((4, 1), np.float32))
    bench.run(batch, failed=range(4))
    assert list(bench.answers[0].failed) == [0, 1, 2, 3]


def test_answers_that_cannot_be_handed_out_end_the_server() -> None:
    bench = Bench(window=1)
    bench.submit(4)

    def deliver(answer: Answer) -> None:
        raise MemoryError("no room")

    bench.client.deliver = deliver
    bench.run(bench.take())
    assert bench.batcher.fault == "answers cannot be handed out (MemoryError: no room)"
    assert bench.batcher.drain(0)


def test_draining_answers_what_came_and_takes_no_more() -> None:
    bench = Bench(window=9)
    bench.submit(4)
    assert not bench.batcher.drain(0)
    with pytest.raises(ServerGone):
        bench.submit(4)
    bench.run(bench.take())
    assert bench.batcher.drain(60)
    assert bench.batcher.snapshot()["reasons"]["shutdown"] == 1
    bench.check()


def test_the_answers_of_a_client_that_left_are_dropped() -> None:
    bench = Bench(window=1)
    bench.submit(4)
    bench.batcher.leave(bench.client)
    bench.run(bench.take())
    assert not bench.answers
    assert bench.batcher.snapshot()["clients"] == 0


def test_a_model_that_is_not_there_is_refused() -> None:
    bench = Bench()
    bench.batcher.serve("best", 7)
    with pytest.raises(MessageError, match="only default, best"):
        bench.submit(4, model="worst")
    bench.submit(4, model="best")
    assert bench.take().weights == 7


def test_time_bins_are_monotone_and_narrow() -> None:
    bins = [time_bin(us) for us in range(20_000)]
    assert all(0 <= later - earlier <= 1 for earlier, later in itertools.pairwise(bins))
    for us in (1, 3, 4, 5, 100, 777, 123_456, 3_000_000):
        assert abs(bin_microseconds(time_bin(us)) - us) <= max(us * 0.15, 0.5)
    assert time_bin(1 << 62) == time_bin(1 << 50)
    counts = [0] * 128
    for us in range(1, 1001):
        counts[time_bin(us)] += 1
    assert percentile(counts, 0.5) == pytest.approx(500, rel=0.15)
    assert percentile(counts, 0.99) == pytest.approx(990, rel=0.15)
    assert percentile([0] * 128, 0.5) == 0


def test_two_snapshots_give_the_figures_between_them() -> None:
    bench = Bench(window=1)
    bench.submit(8)
    bench.run(bench.take())
    before = bench.batcher.snapshot()
    bench.submit(6)
    bench.run(bench.take())
    between = difference(bench.batcher.snapshot(), before)
    assert (between["rows"], between["bucket_rows"], between["batches"], between["requests"]) == (6, 8, 1, 1)
    assert between["reasons"]["all_blocked"] == 1
    assert between["clients"] == 1
    assert between["lanes"][0]["rows"] == 6
    figures = summary(between)
    assert (figures["mean_batch_rows"], figures["fill"]) == (6, 0.75)
    assert figures["compute_us_p50"] == pytest.approx(10, rel=0.15)
