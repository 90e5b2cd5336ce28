"""The CUDA lane; what needs a device is skipped without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grove.inference_server.backends.backend import make_backends
from grove.inference_server.backends.cuda import BufferSets
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.networks.networks import build_network
from tests.support.network_rows import FOUR, TINY, model_of, rows_of, shake_norms

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_buffer_sets_are_taken_in_turn_and_never_twice():
    sets = BufferSets(2)
    assert [sets.take(), sets.take()] == [0, 1]
    with pytest.raises(RuntimeError, match="depth"):
        sets.take()
    sets.give_back(0)
    assert sets.take() == 0
    sets.give_back(1)
    sets.give_back(0)
    assert [sets.take(), sets.take()] == [1, 0]


@needs_cuda
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_two_batches_under_way_give_the_networks_answers(dtype):
    backend = make_backends(FOUR, NetworkSettings(network=TINY, device="cuda", dtype=dtype), 64, 1)[0]
    backend.warm()
    network = build_network(TINY, FOUR)
    shake_norms(network)
    backend.install(1, backend.prepare(model_of(TINY, network)))  # the graphs must see the new weights
    tolerance = 1e-5 if dtype == "fp32" else 0.1
    batches = [rows_of(FOUR, count, seed=count) for count in (3, 64, 17, 1, 40)]
    buffers = [backend.new_host_buffer() for _ in batches]
    handles = []
    for number, (rows, buffer) in enumerate(zip(batches, buffers, strict=True)):
        buffer[: len(rows)] = rows
        bucket = next(size for size in backend.buckets if size >= len(rows))
        handles.append(backend.launch(buffer, len(rows), bucket, 1))
        if number >= 1:
            compare(backend, network, batches[number - 1], handles[number - 1], tolerance)
    compare(backend, network, batches[-1], handles[-1], tolerance)
    backend.close()


def compare(backend, network, rows, handle, tolerance):
    logits, values = backend.finish(handle)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(rows))
    np.testing.assert_allclose(logits, wanted[0].numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(values, wanted[1].numpy(), rtol=tolerance, atol=tolerance)
