"""Networks: specs, seeds, output shapes, and the folded form that is served."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from grove.common.errors import SettingError
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.networks.folding import FoldedResNet, served_form
from grove.inference_server.networks.networks import build_network, check_network, is_user_class
from tests.support.network_rows import FOUR, THREE, TINY, UserNet, rows_of, shake_norms


@pytest.mark.parametrize(
    "spec", [TINY, "resnet", "mlp:layers=1,width=8", "mlp:layers=0", "tests.support.network_rows:UserNet"]
)
def test_outputs_fit_the_game(spec):
    network = build_network(spec, FOUR)
    check_network(network, FOUR)
    logits, values = network(torch.from_numpy(rows_of(FOUR, 3)))
    assert logits.shape == (3, 7)
    assert values.shape == (3, 1)
    assert logits.dtype == values.dtype == torch.float32
    assert values.abs().max() < 1


def test_a_game_of_three_gets_a_value_per_seat():
    network = build_network("mlp:width=8", THREE)
    assert network(torch.from_numpy(rows_of(THREE, 2)))[1].shape == (2, 3)


def test_two_dimensional_rows_are_one_plane():
    spec = RowSpec.from_dict({**FOUR.to_dict(), "observation_shape": [6, 7]})
    network = build_network(TINY, spec)
    check_network(network, spec)
    check_network(served_form(network), spec)


def test_seed_decides_the_weights_and_leaves_torch_alone():
    state = torch.get_rng_state()
    first, same, other = (build_network(TINY, FOUR, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["stem_conv.weight"], other["stem_conv.weight"])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("transformer", "no network has that name"),
        ("resnet:depth=3", "'depth' is no parameter"),
        ("resnet:blocks=0", "1..80"),
        ("resnet:blocks=-1", "1..80"),
        ("mlp:width=x", "whole number"),
        ("nowhere.at.all:Net", "ModuleNotFoundError"),
        ("tests.support.network_rows:Missing", "no class Missing"),
        ("tests.support.network_rows:rows_of", "no class rows_of"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_in_one_line(spec, words):
    with pytest.raises(SettingError, match="network is") as caught:
        build_network(spec, FOUR)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resnet_needs_a_board_and_says_what_does_not():
    for spec in (TINY, "resnet"):
        with pytest.raises(SettingError, match=r"three has rows of shape \(5,\); use mlp:.*, for blob games, blobnet"):
            build_network(spec, THREE)


@pytest.mark.parametrize(("spec", "words"), [("WrongShape", r"\(2, 8\) and \(2, 1\)"), ("OneTensor", "returns Tensor")])
def test_outputs_that_do_not_fit_are_refused_with_shapes_and_remedy(spec, words):
    with pytest.raises(SettingError, match=words) as caught:
        check_network(build_network(f"tests.support.network_rows:{spec}", FOUR), FOUR)
    assert "return logits [B, 7] and values [B, 1]" in str(caught.value)


def test_a_network_that_fails_on_the_rows_is_refused():
    with pytest.raises(SettingError, match="its forward fails"):
        check_network(UserNet(THREE), FOUR)


def test_only_module_colon_class_is_a_users_class():
    assert is_user_class("package.module:Class")
    assert not is_user_class("resnet:blocks=3")
    assert not is_user_class("resnet")


def test_a_seed_gives_the_same_weights_whatever_other_threads_build():
    alone = [build_network(TINY, FOUR, seed).state_dict() for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        beside = list(threads.map(lambda index: build_network(TINY, FOUR, index % 4).state_dict(), range(200)))
    for index, weights in enumerate(beside):
        assert all(torch.equal(value, alone[index % 4][name]) for name, value in weights.items())


def test_folding_changes_nothing():
    network = build_network("resnet:blocks=2,channels=16", FOUR)
    shake_norms(network)
    folded = served_form(network)
    assert isinstance(folded, FoldedResNet)
    rows = torch.from_numpy(rows_of(FOUR, 32))
    for wanted, found in zip(network(rows), folded(rows), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_settings_are_checked():
    with pytest.raises(SettingError, match="auto or cpu or cuda"):
        NetworkSettings(device="tpu")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="network_seed"):
        NetworkSettings(network_seed=-1)


def test_row_spec_survives_its_dictionary_and_refuses_others():
    assert RowSpec.from_dict(FOUR.to_dict()) == FOUR
    assert FOUR.row_bytes == 84
    assert THREE.value_size == 3
    bad = {"num_actions": 0, "observation_shape": "67", "observation_dtype": "O", "zero_sum": 1, "game": 3}
    for name, value in bad.items():
        with pytest.raises(ValueError, match=r"."):
            RowSpec.from_dict({**FOUR.to_dict(), name: value})
    with pytest.raises(ValueError, match="fields"):
        RowSpec.from_dict({})
