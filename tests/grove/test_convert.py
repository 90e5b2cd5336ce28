"""Checkpoints of PyTorch become model files; what is in them is never executed."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from grove.commands.convert import Convert, convert
from grove.common.errors import ModelError, SettingError
from grove.game import load_game
from grove.inference_server.models.model_file import load_model
from grove.inference_server.networks.networks import build_network
from grove.workers.selfplay.evaluators import row_spec

NETWORK = "mlp:layers=1,width=8"
ROWS = row_spec(load_game("connect_four"))


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def saved(path: Path, content: Any) -> Path:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["net.pt", "net.pt.gz"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_arrive_as_they_are(
    tmp_path: Path, name: str, wrapped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    state = build_network(NETWORK, ROWS, seed=5).state_dict()
    half = {key: value.bfloat16() for key, value in state.items()}
    content = {"model_state_dict": half, "epoch": 3} if wrapped else state
    assert convert(Convert(checkpoint=str(saved(tmp_path / name, content)), network=NETWORK)) == 0
    model = load_model(tmp_path / "net.safetensors", ROWS)
    assert capsys.readouterr().out == f"model {model.version} for connect_four: {tmp_path / 'net.safetensors'}\n"
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, half[key].float() if wrapped else state[key])


def refusal(path: Path, kind: type[Exception] = ModelError, **settings: Any) -> str:
    out = path.with_name("out.safetensors")
    with pytest.raises(kind) as caught:
        convert(Convert(**{"checkpoint": str(path), "network": NETWORK, "out": str(out), **settings}))
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, legacy: bool) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "it-ran"
    torch.save({"weights": Evil(marker)}, path, _use_new_zipfile_serialization=not legacy)
    assert "holds more than weights" in refusal(path)
    assert not marker.exists()


def test_what_is_no_checkpoint_of_the_network_is_refused_in_one_line(tmp_path: Path) -> None:
    state = build_network(NETWORK, ROWS).state_dict()
    other = saved(tmp_path / "other.pt", build_network("mlp:layers=2,width=8", ROWS).state_dict())
    assert "has besides hidden.1.bias, hidden.1.weight, so it is not of mlp:layers=1,width=8" in refusal(other)
    assert "lacks hidden.1.bias" in refusal(saved(tmp_path / "less.pt", state), network="mlp:layers=2,width=8")
    wide = saved(tmp_path / "wide.pt", build_network("mlp:layers=1,width=9", ROWS).state_dict())
    assert "hidden.0.weight is (9, 84), mlp:layers=1,width=8 needs (8, 84)" in refusal(wide)
    assert "holds no state dict" in refusal(saved(tmp_path / "list.pt", [1, 2]))
    (tmp_path / "noise.pt").write_bytes(b"noise" * 100)
    assert "or is none" in refusal(tmp_path / "noise.pt")
    assert "cannot be read" in refusal(tmp_path / "absent.pt", SettingError)
