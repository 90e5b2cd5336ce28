"""Model files: round trip, content hash, and every kind of file that must be refused."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from network_rows import FOUR, THREE, TINY

from common.errors import ModelError
from inference_server.model_file import load_model, model_version, open_model, save_model
from inference_server.network_settings import NetworkSettings
from inference_server.networks import build_network
from inference_server.rows import RowSpec


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
    # Not bitwise: weights in a mapped file may lie at other alignments, and sums go another way then.
    torch.testing.assert_close(model.network(rows)[0], network(rows)[0], atol=1e-6, rtol=1e-6)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_fresh_network_has_the_same_kind_of_version(saved):
    settings = NetworkSettings(network=TINY, network_seed=5)
    assert open_model(settings, FOUR).version == saved[2]


def test_version_depends_on_every_weight(saved):
    _, network, version = saved
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["value_linear.bias"] += 1e-3
    assert model_version(TINY, FOUR, state) != version


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_file(saved, keep):
    path = saved[0]
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "truncated")


def test_pickles_are_never_opened(tmp_path):
    path = tmp_path / "net.pt"
    torch.save({"weight": torch.zeros(1)}, path)
    refused(path, "is a pickle")
    torch.save({"weight": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    refused(path, "is a pickle")


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "none", "cannot be read")
    refused(tmp_path, "cannot be read")


def test_huge_header_length(saved):
    path = saved[0]
    path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:])
    refused(path, "truncated")


def test_missing_and_extra_keys(saved):
    path = saved[0]
    state = safetensors.torch.load_file(path)
    state["extra"] = state.pop("stem_conv.weight")
    rewritten(path, state)
    refused(path, r"lacks \['stem_conv.weight'\] and has \['extra'\]")


def test_other_shapes_and_dtypes(saved):
    path = saved[0]
    state = safetensors.torch.load_file(path)
    rewritten(path, {**state, "policy_linear.bias": torch.zeros(8)})
    refused(path, r"policy_linear.bias is \(8,\)")
    rewritten(path, {**state, "policy_linear.bias": torch.zeros(7, dtype=torch.int32)})
    refused(path, "I32")


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


def test_file_without_description(saved):
    safetensors.torch.save_file(safetensors.torch.load_file(saved[0]), saved[0])
    refused(saved[0], "no description")


def test_a_file_cannot_make_us_import_a_class(tmp_path):
    path = tmp_path / "user.safetensors"
    spec = "network_rows:UserNet"
    save_model(path, spec, FOUR, build_network(spec, FOUR).state_dict())
    refused(path, "add --network network_rows:UserNet")
    assert open_model(NetworkSettings(network=spec, model=str(path)), FOUR).spec == spec


def refused(path, words):
    with pytest.raises(ModelError, match=words) as caught:
        load_model(path, FOUR)
    assert "\n" not in str(caught.value)
