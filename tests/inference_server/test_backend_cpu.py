"""CPU lanes: served equals direct, padding and position change nothing, models share the code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grove.common.errors import ModelError, SettingError
from grove.inference_server.backends import execution
from grove.inference_server.backends.backend import make_backends
from grove.inference_server.backends.toolchain import compiler_fault
from grove.inference_server.interface.buckets import CPU_READY, bucket_for, buckets_up_to
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.models.model_file import model_version, save_model
from grove.inference_server.networks import onednn
from grove.inference_server.networks.networks import build_network
from grove.workers.selfplay.direct import DirectNetwork
from tests.support.network_rows import FOUR, THREE, TINY, model_of, rows_of, shake_norms

EXACT = NetworkSettings(network=TINY, dtype="fp32")


def run(backend, rows, bucket, slot=0):
    buffer = backend.new_host_buffer()
    buffer[: len(rows)] = rows
    handle = backend.launch(buffer, len(rows), bucket, slot)
    assert backend.done(handle)
    return backend.finish(handle)


def take(backend, slot, network, spec=TINY):
    """Serve a network in a slot of its own, as the server does."""
    weights = backend.prepare(model_of(spec, network))
    backend.try_out(weights)
    backend.install(slot, weights)


def one_backend(settings=EXACT, max_batch=32, deterministic=False, spec=FOUR):
    (backend,) = make_backends(spec, settings, max_batch, 1, deterministic)
    backend.warm()
    return backend


@pytest.fixture
def trained(tmp_path):
    """Settings of a model file whose batch norms matter, and its network."""
    network = build_network("resnet:blocks=2,channels=16", FOUR)
    shake_norms(network)
    path = tmp_path / "net.safetensors"
    save_model(path, "resnet:blocks=2,channels=16", FOUR, network.state_dict())
    return NetworkSettings(model=str(path), dtype="fp32"), network


@pytest.mark.parametrize("bucket", [8, 16, 32])
def test_served_equals_the_network_in_every_bucket(trained, bucket):
    settings, network = trained
    rows = rows_of(FOUR, 7)
    with torch.inference_mode():
        wanted = [output.numpy() for output in network(torch.from_numpy(rows))]
    found = run(one_backend(settings), rows, bucket)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_plain_operators_give_the_same_where_onednn_is_missing(trained, monkeypatch):
    settings, _ = trained
    rows = rows_of(FOUR, 8)
    fused = one_backend(settings)
    monkeypatch.setattr(execution, "onednn_fault", lambda dtype: "no oneDNN today")
    plain = one_backend(settings)
    assert (fused.describe()["kind"], plain.describe()["kind"]) == ("onednn", "eager")
    assert plain.describe()["kind_reason"] == "no oneDNN today"
    for one, other in zip(run(fused, rows, 8), run(plain, rows, 8), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_without_torchscript_the_same_function_runs_in_python(monkeypatch):
    rows = rows_of(FOUR, 8)
    interpreted = run(one_backend(), rows, 8)
    monkeypatch.setattr(onednn, "_interpreted", lambda: onednn._forward)
    for one, other in zip(interpreted, run(one_backend(), rows, 8), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("network", [TINY, "mlp:layers=1,width=32"])
def test_deterministic_rows_are_bitwise_equal_at_any_position(network):
    settings = NetworkSettings(network=network)
    backend = one_backend(settings, max_batch=48, deterministic=True)
    other_lane = one_backend(settings, max_batch=48, deterministic=True)
    assert backend.buckets == (48,)
    row = rows_of(FOUR, 1)
    wanted = run(backend, row, 48)
    for position in range(48):
        batch = rows_of(FOUR, 48, seed=position)
        batch[position] = row[0]
        for found, expected in zip(run(other_lane, batch, 48), wanted, strict=True):
            np.testing.assert_array_equal(found[position], expected[0])


def test_deterministic_refuses_bf16():
    with pytest.raises(SettingError, match="fp32"):
        one_backend(NetworkSettings(network=TINY, dtype="bf16"), deterministic=True)


def test_bf16_drift_is_measured_and_small():
    backend = one_backend(NetworkSettings(network="resnet:blocks=3,channels=32", dtype="bf16"))
    facts = backend.describe()
    assert facts["dtype"] == "bf16"
    assert 0 < facts["policy_drift"] < 0.02
    assert 0 < facts["value_drift"] < 0.02


@pytest.mark.parametrize("spec", [TINY, "tests.support.network_rows:TutorialNet"])
def test_auto_dtype_says_what_it_measured(spec):
    facts = one_backend(NetworkSettings(network=spec, compile="off")).describe()
    assert "rows/s" in facts["dtype_reason"]


def test_slots_share_the_code_and_have_weights_of_their_own():
    backend = one_backend()
    rows = rows_of(FOUR, 8)
    before = run(backend, rows, 8)[0]
    other = build_network(TINY, FOUR, seed=9)
    shake_norms(other)
    take(backend, 1, other)
    logits, values = run(backend, rows, 8, 1)
    with torch.inference_mode():
        wanted = other(torch.from_numpy(rows))
    assert backend.version_of(1) == model_version(TINY, FOUR, other.state_dict())
    assert not np.allclose(before, logits)
    np.testing.assert_allclose(logits, wanted[0].numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values, wanted[1].numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(run(backend, rows, 8, 0)[0], before)


def test_weights_of_another_network_are_refused_and_nothing_changes():
    backend = one_backend()
    rows = rows_of(FOUR, 8)
    before, version = run(backend, rows, 8)[0], backend.version_of()
    with pytest.raises(ModelError, match="those of another network"):
        backend.prepare(model_of("resnet:blocks=2,channels=8", build_network("resnet:blocks=2,channels=8", FOUR)))
    np.testing.assert_array_equal(run(backend, rows, 8)[0], before)
    assert backend.version_of() == version


def test_a_game_of_three_with_float_rows():
    backend = one_backend(NetworkSettings(network="mlp:width=16", compile="off", dtype="fp32"), spec=THREE)
    logits, values = run(backend, rows_of(THREE, 5), 8)
    assert logits.shape == (5, 4)
    assert values.shape == (5, 3)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
@pytest.mark.parametrize("own", [one_backend, lambda settings: DirectNetwork(FOUR, settings)])
def test_a_user_network_may_flatten_by_view_and_answer_in_its_own_type(own, dtype, tolerance):
    spec = "tests.support.network_rows:TutorialNet"
    rows = rows_of(FOUR, 5)
    with torch.inference_mode():
        wanted = build_network(spec, FOUR)(torch.from_numpy(rows))
    network = own(NetworkSettings(network=spec, dtype=dtype, compile="off"))
    found = network.evaluate(rows) if isinstance(network, DirectNetwork) else run(network, rows, 8)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other.numpy(), atol=tolerance)


@pytest.fixture
def no_monitor(monkeypatch):
    """A first compilation makes torch draw a progress bar, and tqdm keeps a thread for these for good: without it."""
    monkeypatch.setattr("torch.hub.tqdm.monitor_interval", 0, raising=False)


@pytest.fixture
def compiling(no_monitor):
    """A backend that compiles; its thread and its compiler have ended afterwards, however slow they are."""
    backend = one_backend(
        NetworkSettings(network="tests.support.network_rows:UserNet", dtype="fp32", compile="on"), max_batch=16
    )
    yield backend
    backend.close()
    assert backend.wait_compiled(80)


@pytest.mark.slow
def test_compiled_buckets_take_over_and_weights_still_swap(compiling):
    backend = compiling
    rows = rows_of(FOUR, 5)
    eager = run(backend, rows, 16)
    if "see `grove doctor`" in backend.describe()["kind_reason"]:
        pytest.skip(backend.describe()["kind_reason"])
    assert backend.wait_compiled(200)
    assert backend.describe()["compiled_buckets"] == (16,)
    compiled = run(backend, rows, 16)[0]
    np.testing.assert_allclose(compiled, eager[0], rtol=1e-5, atol=1e-5)
    other = build_network("tests.support.network_rows:UserNet", FOUR, seed=9)
    take(backend, 1, other, "tests.support.network_rows:UserNet")
    with torch.inference_mode():
        wanted = other(torch.from_numpy(rows))[0].numpy()
    np.testing.assert_allclose(run(backend, rows, 16, 1)[0], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(run(backend, rows, 16, 0)[0], compiled)
    assert backend.recompiles == 0
    refuse_once(backend, rows, wanted)


def refuse_once(backend, rows, wanted):
    """Another thread count makes the compiled code refuse; the batch is repeated eagerly and counted."""
    torch.set_num_threads(2)
    try:
        found = run(backend, rows, 16, 1)[0]
    finally:
        torch.set_num_threads(1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert backend.recompiles == 1


@pytest.mark.slow
def test_one_position_a_call_compiled_with_the_cpp_wrapper(no_monitor):
    """The form of `direct` that is the fastest as a rule; the other is compiled as lanes are."""
    if fault := compiler_fault():
        pytest.skip(f"nothing can be compiled: {fault}")
    settings = NetworkSettings(network="mlp:layers=1,width=8", device="cpu", dtype="fp32")
    fast, plain = (DirectNetwork(FOUR, settings, how) for how in ("cpp_wrapper", "eager"))
    for row in np.split(rows_of(FOUR, 3), 3):
        for found, wanted in zip(fast.evaluate(row), plain.evaluate(row), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_without_a_compiler_the_lane_stays_eager_and_says_so(monkeypatch):
    monkeypatch.setattr(execution, "compiler_fault", lambda: "no C++ compiler (g++)")
    facts = one_backend(NetworkSettings(network="mlp", dtype="fp32")).describe()
    assert facts["kind"] == "eager"
    assert "no C++ compiler" in facts["kind_reason"]


def test_cuda_is_refused_without_cuda():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(SettingError, match="device is 'cuda'"):
        make_backends(FOUR, NetworkSettings(network="mlp", device="cuda"), 32)


@pytest.mark.parametrize("count", [1, 5, 300])
def test_direct_network_equals_the_network(count):
    direct = DirectNetwork(FOUR, EXACT)
    rows = rows_of(FOUR, count)
    network = build_network(TINY, FOUR)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(rows))
    for found, expected in zip(direct.evaluate(rows), wanted, strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_buckets_end_at_the_largest_batch():
    assert buckets_up_to(1, CPU_READY) == (1,)
    assert buckets_up_to(100, CPU_READY)[-3:] == (80, 96, 100)
    assert buckets_up_to(1500, CPU_READY)[-3:] == (512, 1024, 1500)
    assert buckets_up_to(256, CPU_READY, deterministic=True) == (256,)
    assert [bucket_for(rows, (4, 8, 10)) for rows in (1, 4, 5, 10, 11)] == [4, 4, 8, 10, 11]
