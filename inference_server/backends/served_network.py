"""One lane's copy of the network in the form that is served, on one device and in one dtype."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grove.common.errors import ModelError
from grove.inference_server.backends.compiling import Network
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.models.model_file import LoadedModel
from grove.inference_server.networks.folding import served_form, served_state
from grove.inference_server.networks.networks import Outputs
from grove.inference_server.networks.onednn import OneDnnNetwork, Packed, fused_form

TRIED_ROWS = 32
"""Rows that new weights must compute before they are served."""
_SAME = 1e-3
"""Largest difference of the same answers computed twice; a network that draws random numbers differs by far more."""


class Weights(NamedTuple):
    """The weights of one model as one lane computes with them; never written to."""

    version: str
    """Content hash of the model, 16 hex digits."""
    packed: Packed | None
    """For fused operators."""
    tensors: dict[str, Tensor]
    """Of the served form, on the lane's device, without fused operators."""


class ServedNetwork:
    """Eager evaluation of models of one architecture: one set of code, one set of weights at a time.

    Weights are made ready beside the lane (`prepare`), kept under a number (`install`), and taken up by the lane itself
    before its next batch for them (`use`), so that no batch ever sees half of them.
    """

    def __init__(self, model: LoadedModel, device: torch.device, dtype: torch.dtype, onednn_rows: int = 0) -> None:
        """Copy the weights of `model`, which become number 0.

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
        module = served_form(model.network)
        self._fused: OneDnnNetwork | None = None
        if onednn_rows:
            self._fused = fused_form(self._kind, module, model.row_spec, dtype, onednn_rows)
        self._unit = row_unit_of(model.network)
        self.module = module.to(device=device, dtype=dtype)
        if getattr(module, "channels_last", False):
            for weight in self.module.parameters():
                if weight.dim() == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self.network: Network = self._fused or _float32(self.module)
        self._active: Weights | None = None
        self._installed = {0: self.prepare(model)}
        self.use(0)

    def __call__(self, observations: Tensor) -> Outputs:
        """Map rows [B, *observation_shape] on the device to (logits [B, A], values [B, V])."""
        return self.network(observations)

    def version_of(self, number: int = 0) -> str:
        """Content hash of weights, 16 hex digits."""
        return self._installed[number].version

    @torch.no_grad()
    def prepare(self, model: LoadedModel) -> Weights:
        """Return the weights of `model` as this network computes with them; nothing is changed.

        Raises:
            ModelError: a network of another shape, or weights that hold NaN.
        """
        state = model.network.state_dict()
        same = type(model.network) is self._kind and {n: tensor.shape for n, tensor in state.items()} == self._shapes
        if not same:
            raise ModelError("the new weights are those of another network; serve models of one architecture together")
        for name, tensor in state.items():
            if bool(tensor.isnan().any()):
                raise ModelError(f"the weights {name} hold NaN; look at the training and export another model")
        served = served_state(self._kind, state)
        if self._fused is not None:
            return Weights(model.version, self._fused.pack(served), {})
        tensors = {name: tensor.to(device=self.device, copy=True) for name, tensor in served.items()}
        return Weights(model.version, None, tensors)

    def install(self, number: int, weights: Weights) -> None:
        """Keep `weights` under a new number."""
        self._installed[number] = weights

    def remove(self, number: int) -> None:
        """Forget weights that are not in use any more."""
        self._installed.pop(number, None)

    def use(self, number: int) -> None:
        """Compute with these weights from now on; only the lane's thread may call it."""
        weights = self._installed[number]
        if weights is self._active:
            return
        if self._fused is not None and weights.packed is not None:
            self._fused.use(weights.packed)
        else:
            _copy_into(self.module, weights.tensors)
        self._active = weights

    def try_out(self, weights: Weights, rows: int) -> None:
        """Compute `rows` random rows with `weights` beside the lane.

        Raises:
            ModelError: the answers are not finite, or not the same twice.
        """
        observations = random_rows(self.row_spec, rows, self.device, self._unit)
        with torch.inference_mode():
            compute = self._beside(weights)
            first, again = compute(observations), compute(observations)
        if not all(bool(output.isfinite().all()) for output in first):
            raise ModelError("its answers to random rows are not finite; look at the training and export another model")
        if not all(torch.allclose(a, b, rtol=_SAME, atol=_SAME) for a, b in zip(first, again, strict=True)):
            raise ModelError("its answers to the same rows differ from call to call; a network must not draw numbers")

    def _beside(self, weights: Weights) -> Network:
        """Return the network with other weights, sharing nothing that the lane writes to."""
        fused, packed = self._fused, weights.packed
        if fused is not None and packed is not None:
            return lambda observations: fused.run(observations, packed)
        module = copy.deepcopy(self.module)
        _copy_into(module, weights.tensors)
        return _float32(module)


def _float32(module: nn.Module) -> Network:
    """Return `module` with outputs in float32: users' networks may answer in the type of their weights."""

    def call(observations: Tensor) -> Outputs:
        logits, values = module(observations)
        return logits.float(), values.float()

    return call


@torch.no_grad()
def _copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace the weights in place; compiled code and CUDA graphs stay valid."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(tensors[name])


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
