"""One lane's copy of the network in the form that is served, on one device and in one dtype."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.errors import ModelError
from inference_server.compiling import Network
from inference_server.folding import served_form, served_state
from inference_server.model_file import LoadedModel
from inference_server.networks import Outputs
from inference_server.onednn import OneDnnNetwork, fused_form
from inference_server.rows import RowSpec


class ServedNetwork:
    """Eager evaluation of one model, whose weights can be replaced in place."""

    def __init__(self, model: LoadedModel, device: torch.device, dtype: torch.dtype, onednn_rows: int = 0) -> None:
        """Copy the weights of `model`.

        Args:
            model: the network in its trained form.
            device: where it runs.
            dtype: of weights and computation.
            onednn_rows: usual rows of a batch for oneDNN's fused operators; 0 runs plain torch operators.
        """
        self._kind = type(model.network)
        self._shapes = {name: tensor.shape for name, tensor in model.network.state_dict().items()}
        self.row_spec = model.row_spec
        self.device, self.dtype = device, dtype
        self.version = model.version
        module = served_form(model.network)
        self._fused: OneDnnNetwork | None = None
        if onednn_rows:
            self._fused = fused_form(self._kind, module, model.row_spec, dtype, onednn_rows)
        self.module = module.to(device=device, dtype=dtype)
        for weight in self.module.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self.network: Network = self._fused or self.module

    def __call__(self, observations: Tensor) -> Outputs:
        """Map rows [B, *observation_shape] on the device to (logits [B, A], values [B, V])."""
        return self.network(observations)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], version: str) -> None:
        """Replace the weights in place by `state` (trained form); compiled code and CUDA graphs stay valid.

        Raises:
            ModelError: `state` belongs to a network of another shape; nothing has been changed.
        """
        if {name: tensor.shape for name, tensor in state.items()} != self._shapes:
            raise ModelError("the new weights are those of another network; serve models of one architecture together")
        served = served_state(self._kind, state)
        if self._fused is not None:
            self._fused.load(served)
        for name, tensor in self.module.state_dict().items():
            tensor.copy_(served[name])
        self.version = version


def rows_like(row_spec: RowSpec, rows: int, device: torch.device | str = "cpu") -> Tensor:
    """Return zeros [rows, *observation_shape] in the delivered dtype."""
    return torch.zeros(
        (rows, *row_spec.observation_shape), dtype=getattr(torch, row_spec.observation_dtype), device=device
    )


def random_rows(row_spec: RowSpec, rows: int, device: torch.device | str = "cpu", one: int = 1) -> Tensor:
    """Return rows of random zeros and ones in the delivered dtype: what board planes look like; always the same.

    Args:
        row_spec: the rows.
        rows: how many.
        device: where they shall be.
        one: the delivered number that stands for 1; row_unit_of tells it.
    """
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2, (rows, *row_spec.observation_shape), generator=generator)
    return (one * bits).to(dtype=getattr(torch, row_spec.observation_dtype)).to(device)


def row_unit_of(network: nn.Module) -> int:
    """Return the delivered number that `network` reads as 1: its `row_unit`, or 1 where it has none.

    Zeros and ones would be 0 and 1/120 to blobnet: rows all nearly alike, which say nothing about rounding. The dtype
    cannot decide it, for int8 planes of -1, 0 and 1 are as usual as int8 fractions.
    """
    return int(getattr(network, "row_unit", 1))
