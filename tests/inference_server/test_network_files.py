"""Model files: round trip, content hash, and every kind of file that must be refused."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grove.common.errors import ModelError
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.models.model_file import load_model, model_version, open_model, save_model
from grove.inference_server.networks.networks import build_network
from tests.support.network_rows import FOUR, THREE, TINY


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.safetensors"
    network = build_network(TINY, FOUR, seed=5)
    version = save_model(path, TINY, FOUR, network.state_dict())
    return path, network, version


def rewritten(path, tensors=None, **description):
    """Write `path` again with other tensors or another description."""
    with safetensors.safe_open(path, framework="pt") as file:
        fields = json.loads(file.metadata()["grove-model"])
    state = safetensors.torch.load_file(path) if tensors is None else tensors
    metadata = {"grove-model": json.dumps({**fields, **description})}
    safetensors.torch.save_file(state, path, metadata=metadata)


def test_round_trip_keeps_weights_and_version(saved):
    path, network, version = saved
    model = load_model(path, FOUR)
    assert model.version == version == model_version(TINY, FOUR, network.state_dict())
    assert len(version) == 16
    assert int(version, 16) >= 0
    wanted = network.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.network.state_dict().items())
    rows = torch.ones((1, *FOUR.observation_shape), dtype=torch.uint8)
    # Not bitwise: weights that were read may lie at other alignments, and sums go another way then.
    torch.testing.assert_close(model.network(rows)[0], network(rows)[0], atol=1e-6, rtol=1e-6)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_is_written_to_a_file_later_does_not_reach_the_weights(saved):
    path, network, version = saved
    model = load_model(path, FOUR)
    before = path.stat()
    with path.open("r+b") as file:  # the same file, in place
        file.seek(before.st_size // 2)
        file.write(b"\xff" * (before.st_size // 2))
        file.truncate(100)
    assert path.stat().st_ino == before.st_ino
    assert model.version == version == model_version(TINY, FOUR, model.network.state_dict())
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in model.network.state_dict().items())


def test_a_file_that_is_none_is_refused_with_its_fault(saved, tmp_path):
    path, blob = saved[0], saved[0].read_bytes()
    for keep in (0, 4, 100, -1):
        path.write_bytes(blob[:keep])
        refused(path, "truncated")
    for zipped in (True, False):
        torch.save({"weight": torch.zeros(1)}, path, _use_new_zipfile_serialization=zipped)
        refused(path, "is a pickle")
    refused(tmp_path / "none", "cannot be read")
    refused(tmp_path, "cannot be read")
    path.write_bytes(blob)
    state = safetensors.torch.load_file(path)
    for change, words in (
        ({"policy_linear.bias": torch.zeros(8)}, r"policy_linear.bias is \(8,\)"),
        ({"policy_linear.bias": torch.zeros(7, dtype=torch.int32)}, "I32"),
        ({"extra": torch.zeros(1)}, r"has \['extra'\]"),
    ):
        rewritten(path, {**state, **change})
        refused(path, words)
    safetensors.torch.save_file(state, path)
    refused(path, "no description")


def test_a_giant_described_in_a_small_file_takes_no_memory(saved):
    rewritten(saved[0], network="resnet:blocks=80,channels=2048")
    refused(saved[0], "lacks")


def test_other_game_and_rows(saved):
    with pytest.raises(ModelError, match="made for game connect_four, not three"):
        load_model(saved[0], THREE)
    wider = RowSpec.from_dict({**FOUR.to_dict(), "observation_shape": [2, 6, 8]})
    with pytest.raises(ModelError, match="observation_shape"):
        load_model(saved[0], wider)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"format_version": 99}, "format 99"),
        ({"network": "alexnet"}, "impossible network"),
        ({"network": 7}, "format"),
        ({"rows": []}, "no description"),
    ],
)
def test_impossible_description(saved, description, words):
    rewritten(saved[0], **description)
    refused(saved[0], words)


def test_a_file_cannot_make_us_import_a_class(tmp_path):
    path = tmp_path / "user.safetensors"
    spec = "tests.support.network_rows:UserNet"
    save_model(path, spec, FOUR, build_network(spec, FOUR).state_dict())
    refused(path, "add --network tests.support.network_rows:UserNet")
    assert open_model(NetworkSettings(network=spec, model=str(path)), FOUR).spec == spec


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A whole model file, and its bytes."""
    path = tmp_path_factory.mktemp("fuzz") / "net.safetensors"
    save_model(path, TINY, FOUR, build_network(TINY, FOUR, seed=5).state_dict())
    return path, path.read_bytes()


def rewrite_header(blob, change):
    """Return the file with another header."""
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + blob[8 + length :]


HOSTILE_NUMBERS = st.one_of(st.integers(-(1 << 70), 1 << 70), st.integers(0, 4000), st.floats(), st.text(max_size=3))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_file_does_more_than_be_refused(exported, data):
    """Cut, flipped, overlapping, out of bounds, of other types or sizes: one line, no crash, and never a model."""
    path, blob = exported
    names = [name for name in json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")]) if name != "__metadata__"]
    kind = data.draw(st.sampled_from(["cut", "length", "bytes", "offsets", "dtype", "shape", "nest", "metadata"]))
    name = data.draw(st.sampled_from(sorted(names)))
    if kind == "cut":
        hostile = blob[: data.draw(st.integers(0, len(blob) - 1))]
    elif kind == "length":
        hostile = data.draw(st.integers(0, (1 << 64) - 1)).to_bytes(8, "little") + blob[8:]
    elif kind == "bytes":
        at = data.draw(st.integers(0, 600))
        hostile = blob[:at] + data.draw(st.binary(min_size=1, max_size=40)) + blob[at + 1 :]
    elif kind == "offsets":
        offsets = data.draw(st.lists(HOSTILE_NUMBERS, max_size=3))
        hostile = rewrite_header(blob, lambda header: header[name].update(data_offsets=offsets))
    elif kind == "dtype":
        dtype = data.draw(st.sampled_from(["F64", "I8", "BOOL", "F8_E4M3", "", "X", 3]))
        hostile = rewrite_header(blob, lambda header: header[name].update(dtype=dtype))
    elif kind == "shape":
        shape = data.draw(st.lists(HOSTILE_NUMBERS, max_size=5))
        hostile = rewrite_header(blob, lambda header: header[name].update(shape=shape))
    elif kind == "nest":
        hostile = rewrite_header(blob, lambda header: header.update({name: data.draw(JSON)}))
    else:
        hostile = rewrite_header(blob, lambda header: header.update(__metadata__=data.draw(JSON)))
    if hostile == blob:
        return
    path.write_bytes(hostile)
    said = fault_of(path)
    assert "\n" not in said
    assert said or kind in ("bytes", "shape", "offsets", "metadata")  # by luck it may say the same as before


def fault_of(path):
    try:
        load_model(path, FOUR)
    except ModelError as error:
        return str(error)
    return ""


JSON = st.recursive(
    st.none() | st.booleans() | HOSTILE_NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_give_no_numbers_are_refused(saved, value):
    path = saved[0]
    state = safetensors.torch.load_file(path)
    state["policy_linear.weight"] = torch.full_like(state["policy_linear.weight"], value)
    state["policy_linear.bias"] = torch.full_like(state["policy_linear.bias"], value)
    state["policy_norm.bias"] = torch.full_like(state["policy_norm.bias"], 1e30)
    rewritten(path, state)
    refused(path, "not finite")


def refused(path, words):
    with pytest.raises(ModelError, match=words) as caught:
        load_model(path, FOUR)
    assert "\n" not in str(caught.value)
