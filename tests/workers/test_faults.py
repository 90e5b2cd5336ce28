"""Faults of the device: memory, single rows, outputs that are no numbers, a broken device, a lane that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.common.errors import PoolError
from grove.inference_server import Answer, Client, InferenceServer, ServerSettings, ZmqClient
from grove.inference_server import server as grove_server
from grove.inference_server.batching.lanes import Lane
from grove.inference_server.channels.zmq_channel import ZmqChannel
from tests.support.arithmetic_network import SPEC, compute, random_rows
from tests.support.faulty_backend import INFINITE, NAN, RAISES, FaultyBackend

Eventually = Callable[[Callable[[], Any]], Any]


class FakeTorchError(RuntimeError):
    """As torch's own, whose name is what counts where torch is not imported."""


FakeTorchError.__name__ = "OutOfMemoryError"


def ask(client: Client, rows: np.ndarray) -> Answer:
    client.submit(rows)
    reply = client.collect(100)
    assert reply is not None
    return reply


def check(reply: Answer, rows: np.ndarray, failed: list[int]) -> None:
    """Exactly the rows `failed` failed; all others have the true answers."""
    assert list(reply.failed) == failed
    good = np.setdiff1d(np.arange(len(rows)), failed)
    logits, values = compute(SPEC, rows)
    assert np.array_equal(reply.logits[good], logits[good])
    assert np.array_equal(reply.values[good], values[good])
    assert not reply.logits[failed].any()
    assert not reply.values[failed].any()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    "fault", [RuntimeError("CUDA error: out of memory"), MemoryError("no room"), FakeTorchError("x")]
)
def test_out_of_memory_halves_the_largest_batch_and_loses_no_row(depth: int, fault: Exception) -> None:
    backend = FaultyBackend(room=8, depth=depth)
    backend.memory_fault = lambda: fault
    with InferenceServer(SPEC, [backend]) as server:
        client = server.connect(2)
        batches = [random_rows(SPEC, count, count) for count in (100, 32)]
        for rows in batches:
            client.submit(rows)
        for rows in batches:
            reply = client.collect(100)
            check(reply, rows, [])
        stats = server.stats()
        assert stats["largest_batch"] == 8
        assert stats["errors"]["out_of_memory"] >= 1
        assert stats["failed_rows"] == 0
        assert stats["rows"] == 132
        assert server.new_problems() == [
            "the device is out of memory with batches of 32 rows: at most 16 rows from now on",
            "the device is out of memory with batches of 16 rows: at most 8 rows from now on",
        ]
        assert server.new_problems() == []
        backend.batches.clear()
        check(ask(client, batches[0]), batches[0], [])
        assert {bucket for _, bucket in backend.batches} == {8}
        server.check()


def test_no_memory_at_all_is_a_broken_device() -> None:
    with InferenceServer(SPEC, [FaultyBackend(room=0)]) as server:
        rows = random_rows(SPEC, 20, 0)
        check(ask(server.connect(1), rows), rows, list(range(20)))
        with pytest.raises(PoolError, match=r"gives up: the device computes nothing any more .*out of memory"):
            server.check()


@pytest.mark.parametrize("channel", ["inproc", "zmq"])
def test_poisoned_rows_fail_alone(channel: str) -> None:
    with InferenceServer(SPEC, [FaultyBackend()]) as server:
        client = server.connect(1) if channel == "inproc" else ZmqClient(server.bind("tcp://127.0.0.1:*"), SPEC)
        rows = random_rows(SPEC, 70, 1)
        rows[[3, 40, 41, 69], 0, 0, 0] = RAISES
        rows[[4, 68], 0, 0, 0] = NAN, INFINITE
        reply = ask(client, rows)
        check(reply, rows, [3, 4, 40, 41, 68, 69])
        assert reply.error
        stats = server.stats()
        assert stats["failed_rows"] == 6
        assert stats["errors"]["batch:ValueError"] == 3
        server.check()
        client.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0, 0, 0, NAN, INFINITE, RAISES]), min_size=1, max_size=90))
def test_every_row_without_fault_is_answered(marks: list[int]) -> None:
    with InferenceServer(SPEC, [FaultyBackend(), FaultyBackend()]) as server:
        rows = random_rows(SPEC, len(marks), 7)
        rows[:, 0, 0, 0] = marks
        check(ask(server.connect(1), rows), rows, [row for row, mark in enumerate(marks) if mark])


def test_what_one_bad_client_costs_is_bounded() -> None:
    backend = FaultyBackend(buckets=(8, 1024))
    with InferenceServer(SPEC, [backend], ServerSettings(max_batch=1024)) as server:
        rows = random_rows(SPEC, 1000, 1)
        rows[:, 0, 0, 0] = RAISES
        check(ask(server.connect(1), rows), rows, list(range(1000)))
        assert len(backend.batches) < 200
        server.check()


def test_a_broken_device_ends_the_server_and_a_fault_that_passes_does_not() -> None:
    backend = FaultyBackend()
    with InferenceServer(SPEC, [backend]) as server:
        client, rows = server.connect(1), random_rows(SPEC, 9, 0)
        backend.broken = True
        check(ask(client, rows), rows, list(range(9)))
        assert server.stats()["errors"] == {"batch:RuntimeError": 1}
        with pytest.raises(PoolError, match=r"computes nothing any more .*illegal memory access"):
            server.check()
        assert len(server.new_problems()) == 1


def test_a_fault_told_when_asked_whether_a_batch_is_done_is_that_of_the_batch() -> None:
    """CUDA tells of an earlier fault at whichever call comes next."""
    backend = FaultyBackend(depth=2, seconds=0.05)
    with InferenceServer(SPEC, [backend]) as server:
        client, rows = server.connect(1), random_rows(SPEC, 9, 0)
        backend.done_fault = RuntimeError("CUDA error: an illegal memory access was encountered")
        check(ask(client, rows), rows, [])  # it was no fault of this batch
        rows[3, 0, 0, 0] = RAISES
        check(ask(client, rows), rows, [3])
        server.check()


def test_a_lane_that_ends_ends_the_server(eventually: Eventually) -> None:
    backend = FaultyBackend()
    with InferenceServer(SPEC, [backend]) as server:
        backend.weights_gone = True
        server.connect(1).submit(random_rows(SPEC, 4, 0))
        eventually(lambda: server.stats()["errors"].get("ended_lane"))
        with pytest.raises(PoolError, match="gives up: lane 0 has ended: KeyError: 0"):
            eventually(server.check)


def test_without_memory_for_a_host_buffer_a_request_is_refused_whole_and_others_are_served() -> None:
    backend = FaultyBackend()
    with InferenceServer(SPEC, [backend]) as server:
        client, rows = server.connect(2), random_rows(SPEC, 100, 0)
        check(ask(client, rows[:9]), rows[:9], [])
        backend.buffers = 1
        with pytest.raises(MemoryError, match="no room for a host buffer"):
            client.submit(rows)
        check(ask(client, rows[:40]), rows[:40], [])
        backend.buffers = 1 << 30
        check(ask(client, rows), rows, [])
        server.check()


def test_a_channel_that_ends_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(channel: ZmqChannel) -> None:
        raise MemoryError("no room")

    with InferenceServer(SPEC, [FaultyBackend()]) as server:
        endpoint = server.bind("tcp://127.0.0.1:*")
        monkeypatch.setattr(ZmqChannel, "_forget_silent", fail)
        server._channels[0]._thread.join(100)
        with pytest.raises(PoolError, match=f"the channel at {endpoint} has ended: MemoryError: no room"):
            server.check()


def test_a_lane_that_hangs_is_noticed_and_the_server_can_be_left(eventually: Eventually) -> None:
    backend = FaultyBackend()
    server = InferenceServer(SPEC, [backend], ServerSettings(hang_after_s=1))
    try:
        with server:
            client = server.connect(1)
            backend.hold.clear()
            client.submit(random_rows(SPEC, 4, 0))
            with pytest.raises(PoolError, match="lane 0 has computed nothing for 1 s"):
                eventually(server.check)
            assert server.stats()["errors"] == {"hung_lane": 1}
        assert backend.closed == 0  # it still computes in there
    finally:
        backend.hold.set()


def test_idle_lanes_and_slow_ones_do_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress and clock by hand; a process that was stopped for an hour did not hang either."""
    with InferenceServer(SPEC, [FaultyBackend()], ServerSettings(hang_after_s=4)) as server:
        assert server.wait_ready(60)
        now, progress = [time.monotonic()], [-1]
        monkeypatch.setattr(grove_server.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(Lane, "progress", property(lambda lane: progress[0]))
        for look in range(40):
            now[0] += 0.5 if look % 5 else 3600
            progress[0] = -1 if look < 20 else look // 3  # idle; then slow, but it goes on
            server.check()
        for _ in range(7):
            now[0] += 0.5
            server.check()
        now[0] += 0.5
        with pytest.raises(PoolError, match="lane 0 has computed nothing"):
            server.check()
