"""The network of blob games: sizes, the forms it is served in, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from grove.common.errors import ModelError, SettingError
from grove.inference_server.backends.backend import make_backends
from grove.inference_server.backends.execution import bf16_drift
from grove.inference_server.backends.served_network import ServedNetwork, random_rows
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.models.model_file import LoadedModel, load_model, save_model
from grove.inference_server.networks.blobnet import BLOBNET_SPECS, ROW_UNIT
from grove.inference_server.networks.folding import served_form
from grove.inference_server.networks.networks import build_network
from grove.inference_server.networks.onednn import onednn_fault
from tests.support.network_rows import FOUR, THREE

BLOB = RowSpec(
    game="blob:players=4,cards=7",
    observation_shape=(256,),
    observation_dtype="int8",
    num_actions=52,
    num_players=4,
    zero_sum=False,
)
ONE_VALUE = replace(BLOB, num_players=2, zero_sum=True)
CPU = torch.device("cpu")
NO_BF16 = onednn_fault(torch.bfloat16)


def blob_rows(count, seed=0):
    """Rows [count, 256] over the whole scale of the game."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-ROW_UNIT, ROW_UNIT + 1, (count, 256), generator=generator, dtype=torch.int8)


def parameters(network):
    return sum(weight.numel() for weight in network.parameters())


def shaken(spec, seed=0, row_spec=BLOB):
    """A network whose norms, biases and position matter, as after training."""
    network = build_network(spec, row_spec, seed)
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data.uniform_(0.5, 2.0)
            module.bias.data.normal_()
        elif isinstance(module, nn.Linear):
            module.bias.data.normal_(std=0.3)
    if network.position is not None:
        network.position.data.normal_()
    return network


def model_of(spec, network, version="0" * 16):
    return LoadedModel(spec=spec, row_spec=BLOB, network=network, version=version)


def assert_same(found, wanted, tolerance=1e-5):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("spec", "count"), [("blobnet", 4_127_928), ("blobnet:small", 371_768), ("blobnet:origin", 4_917_688)]
)
def test_parameters(spec, count):
    assert parameters(build_network(spec, BLOB)) == count


@pytest.mark.parametrize("players", range(3, 9))
def test_a_value_per_player_in_every_form(players):
    spec = replace(BLOB, game=f"blob:players={players},cards=6", num_players=players)
    network = shaken("blobnet:small", row_spec=spec)
    rows = blob_rows(5)
    logits, values = network(rows)
    assert logits.shape == (5, 52)
    assert values.shape == (5, players)
    assert values.abs().max() <= 1
    assert_same(served_form(network)(rows), (logits, values))


def test_the_layers_are_pytorchs_encoder_layers():
    """Origin's block computes what nn.TransformerEncoderLayer with its defaults does with one token."""
    block = shaken("blobnet:origin").blocks[2]
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True).eval()
    attention = {
        f"in_proj_{part}": torch.cat([getattr(getattr(block, name), part) for name in ("query", "key", "value")])
        for part in ("weight", "bias")
    }
    layer.self_attn.load_state_dict({**attention, "out_proj.weight": block.out.weight, "out_proj.bias": block.out.bias})
    for name in ("norm1", "linear1", "linear2", "norm2"):
        getattr(layer, name).load_state_dict(getattr(block, name).state_dict())
    tokens = torch.randn(6, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(block(tokens), layer(tokens.unsqueeze(1)).squeeze(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", BLOBNET_SPECS)
def test_folding_changes_nothing(spec):
    network = shaken(spec)
    folded = served_form(network)
    rows = blob_rows(32)
    assert_same(folded(rows), network(rows))
    assert parameters(folded) < parameters(network)


@pytest.mark.parametrize(("spec", "count"), [("blobnet", 48), ("blobnet:small", 1), ("blobnet:small", 48)])
@torch.inference_mode()
def test_fused_operators_give_the_same(spec, count):
    network = shaken(spec)
    rows = blob_rows(count)
    assert_same(ServedNetwork(model_of(spec, network), CPU, torch.float32, 32)(rows), network(rows))


@pytest.mark.parametrize(("spec", "onednn_rows"), [("blobnet:small", 0), ("blobnet:small", 32), ("blobnet:origin", 32)])
@torch.inference_mode()
def test_models_take_turns_in_place(spec, onednn_rows):
    served = ServedNetwork(model_of(spec, shaken(spec)), CPU, torch.float32, onednn_rows)
    rows = blob_rows(8)
    before = served(rows)[0]
    addresses = [weight.data_ptr() for weight in served.module.parameters()]
    other = shaken(spec, seed=1)
    weights = served.prepare(model_of(spec, other))
    served.try_out(weights, 8)
    served.install(1, weights)
    assert torch.equal(served(rows)[0], before)
    served.use(1)
    assert not torch.allclose(served(rows)[0], before)
    assert_same(served(rows), other(rows))
    assert [weight.data_ptr() for weight in served.module.parameters()] == addresses
    served.use(0)
    assert torch.equal(served(rows)[0], before)
    with pytest.raises(ModelError, match="those of another network"):
        served.prepare(model_of("blobnet", build_network("blobnet", BLOB)))


def test_a_lane_takes_the_fused_operators_and_equal_rows_are_equal_anywhere():
    settings = NetworkSettings(network="blobnet:small")
    (backend,) = make_backends(BLOB, settings, 24, 1, True)
    backend.warm()
    assert backend.describe()["kind"] == ("eager" if onednn_fault(torch.float32) else "onednn")
    row = blob_rows(1, seed=7).numpy()[0]
    answers = []
    for position in range(24):
        batch = blob_rows(24, seed=position).numpy()
        batch[position] = row
        logits, values = backend.finish(backend.launch(batch, 24, 24))
        answers.append(np.concatenate([logits[position], values[position]]))
    assert all(np.array_equal(answers[0], answer) for answer in answers)
    backend.close()


@torch.inference_mode()
def test_rows_for_measuring_are_told_apart_by_the_network():
    """Without the unit they would all look alike, and the drift of bf16 would be probed at one point."""
    network = build_network("blobnet:small", BLOB)
    faint, honest = (network(random_rows(BLOB, 64, one=one))[0].std(0).mean() for one in (1, ROW_UNIT))
    assert faint < 0.25 * honest
    exact, rounded = (ServedNetwork(model_of("x", network), CPU, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert 0 < max(bf16_drift(exact, rounded, random_rows(BLOB, 64, one=ROW_UNIT))) < 0.05


@pytest.mark.parametrize("spec", ["blobnet", "blobnet:small", "blobnet:origin"])
def test_model_files_keep_it(tmp_path, spec):
    network = shaken(spec)
    path = tmp_path / "blob.safetensors"
    version = save_model(path, spec, BLOB, network.state_dict())
    model = load_model(path, BLOB)
    assert (model.spec, model.version) == (spec, version)
    assert not any(weight.is_meta for weight in model.network.parameters())
    rows = blob_rows(4)
    assert_same(model.network(rows), network(rows))
    with pytest.raises(ModelError, match="made for"):
        load_model(path, replace(BLOB, num_players=5, game="blob:players=5,cards=7"))


@pytest.mark.parametrize(
    "row_spec", [FOUR, THREE, replace(BLOB, num_actions=51), replace(BLOB, observation_dtype="f4")]
)
def test_rows_of_other_games_are_refused(row_spec):
    refused("blobnet", row_spec, "blobnet is for blob games; use mlp:layers=2")


@pytest.mark.parametrize("cards", ["cards=14", "match=15", "cards=14,trump=1"])
def test_hands_beyond_thirteen_cards_are_refused(cards):
    refused("blobnet:small", replace(BLOB, game=f"blob:players=3,{cards}"), "a row holds bids of 0..13; choose")


@pytest.mark.parametrize("spec", ["blobnet:big", "blobnet:blocks=3", "blobnet:Small"])
def test_unknown_variants_are_refused_with_the_list(spec):
    refused(spec, BLOB, "use blobnet, blobnet:small or blobnet:origin")


def refused(spec, row_spec, words):
    with pytest.raises(SettingError, match="network is") as caught:
        build_network(spec, row_spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
