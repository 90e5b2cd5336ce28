"""The built-in networks on CPU with oneDNN's fused operators: a layer, its bias, skip connection and ReLU in one pass.

These are the operators torch.compile emits for frozen weights; called directly they need no compilation, keep the
weights in oneDNN's own layout and let them be swapped. The sequence of calls runs in TorchScript's interpreter, which
holds no GIL, so lanes and search threads do not wait for each other. Measured on one AVX-512/AMX core, 3 blocks x 32
channels, bf16, 256 rows: 172k rows/s, 152k from Python, 97k for torch.compile of the same folded net; two lanes scale
by 2.0 (docs/performance.md). On one AVX2 core without bf16, fp32, 256 rows: blobnet 9.2k rows/s, 9.3k compiled,
7.7k plain; blobnet:small 104k, 90k and 96k.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.networks.blobnet import BlobNet
from grove.inference_server.networks.folding import FoldedBlobNet, FoldedResNet
from grove.inference_server.networks.networks import Outputs, ResNet

_ONE = [1, 1]  # stride and dilation of every convolution
_Forward = Callable[[Tensor, list[Tensor], list[Tensor], int], Outputs]
"""(rows, weights, biases, A) -> outputs; weights and biases in the order in which the layers are used."""


class _Folded(Protocol):
    """What is needed of a served form."""

    num_actions: int

    def state_dict(self) -> dict[str, Tensor]: ...


class Packed(NamedTuple):
    """Weights in the layout of the fused operators, in the order in which the layers are used."""

    weights: list[Tensor]
    biases: list[Tensor]


class OneDnnNetwork:
    """What a served form computes, in packed weights of one dtype."""

    def __init__(self, network: _Folded, layers: list[str], run: _Forward, dtype: torch.dtype) -> None:
        """Pack the weights of `network`.

        Args:
            network: the served form.
            layers: names of its layers, each with weight and bias, in the order in which `run` uses them.
            run: computes rows from them.
            dtype: of weights and computation.
        """
        self._layers, self._run, self._dtype = layers, run, dtype
        self._actions = network.num_actions
        self.use(self.pack(network.state_dict()))

    def pack(self, state: Mapping[str, Tensor]) -> Packed:
        """Return the weights of a network of the same shape (served form) as this one computes with them."""
        with torch.inference_mode():
            weights = [state[f"{name}.weight"].to(dtype=self._dtype, copy=True) for name in self._layers]
            biases = [state[f"{name}.bias"].to(dtype=self._dtype, copy=True) for name in self._layers]
            return Packed([self._packed(weight) for weight in weights], biases)

    def use(self, packed: Packed) -> None:
        """Compute with these weights from now on; costs nothing."""
        self._packed_weights = packed

    def run(self, observations: Tensor, packed: Packed) -> Outputs:
        """Compute with other weights; any thread may call it."""
        return self._run(observations, packed.weights, packed.biases, self._actions)

    def __call__(self, observations: Tensor) -> Outputs:
        """Map rows [B, ...] of any dtype to (logits [B, A], values [B, V]), float32."""
        return self.run(observations, self._packed_weights)

    def _packed(self, weight: Tensor) -> Tensor:
        """Return a weight in the layout that oneDNN likes best, or as it is where plain operators use it."""
        raise NotImplementedError


class OneDnnResNet(OneDnnNetwork):
    """What FoldedResNet computes."""

    def __init__(self, network: FoldedResNet, row_spec: RowSpec, dtype: torch.dtype, rows: int) -> None:
        """Pack the weights of `network` for batches of about `rows` rows of `row_spec`."""
        self._board, self._rows = row_spec.observation_shape[-2:], rows
        trunk = [f"trunk.{layer}" for layer in range(len(network.trunk))]
        super().__init__(network, ["stem", *trunk, "head", "head_linear", "value_linear"], _interpreted(), dtype)

    def _packed(self, weight: Tensor) -> Tensor:
        if weight.dim() != 4:
            return weight
        shape = [self._rows, weight.shape[1], *self._board]
        padding = [weight.shape[2] // 2] * 2
        weight = weight.to(memory_format=torch.channels_last)
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, _ONE, _ONE, 1, shape)
        return packed


class OneDnnBlobNet(OneDnnNetwork):
    """What FoldedBlobNet computes."""

    def __init__(self, network: FoldedBlobNet, row_spec: RowSpec, dtype: torch.dtype, rows: int) -> None:
        """Pack the weights of `network` for batches of about `rows` rows."""
        self._rows = rows
        parts = ("mix", "norm1", "linear1", "linear2", "norm2")
        blocks = [f"blocks.{block}.{part}" for block in range(len(network.blocks)) for part in parts]
        run = interpreted(_blob_forward)
        super().__init__(network, ["input", "input_norm", *blocks, "hidden", "heads"], run, dtype)

    def _packed(self, weight: Tensor) -> Tensor:
        if weight.dim() != 2:
            return weight
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, self._rows)
        return packed


_FUSED: dict[type[nn.Module], Callable[..., OneDnnNetwork]] = {ResNet: OneDnnResNet, BlobNet: OneDnnBlobNet}


def has_fused_form(network_kind: type[nn.Module]) -> bool:
    """Return whether networks of exactly this class (trained form) can run on fused operators."""
    return network_kind in _FUSED


def fused_form(
    network_kind: type[nn.Module], served: nn.Module, row_spec: RowSpec, dtype: torch.dtype, rows: int
) -> OneDnnNetwork | None:
    """Return `served` on fused operators for batches of about `rows` rows, or None where its class has no such form.

    Args:
        network_kind: class of the trained form.
        served: its served form, fp32 on CPU.
        row_spec: the rows.
        dtype: of weights and computation.
        rows: usual rows of a batch; others work too.
    """
    fused = _FUSED.get(network_kind)
    return fused(served, row_spec, dtype, rows) if fused else None


def _forward(rows: Tensor, weights: list[Tensor], biases: list[Tensor], actions: int) -> tuple[Tensor, Tensor]:
    """Evaluate rows; `weights` and `biases` hold stem, trunk, head, both heads' linear layer, value layer.

    Written in the part of Python that TorchScript knows.
    """
    one = [1, 1]
    last = len(weights) - 3
    planes = rows if rows.dim() == 4 else rows.unsqueeze(1)
    planes = planes.to(biases[0].dtype).contiguous(memory_format=torch.channels_last)
    planes = torch.ops.mkldnn._convolution_pointwise(planes, weights[0], biases[0], one, one, one, 1, "relu", [], "")
    for layer in range(1, last, 2):
        hidden = torch.ops.mkldnn._convolution_pointwise(
            planes, weights[layer], biases[layer], one, one, one, 1, "relu", [], ""
        )
        planes = torch.ops.mkldnn._convolution_pointwise_(  # relu(planes + convolution), written over planes
            planes, hidden, weights[layer + 1], biases[layer + 1], one, one, one, 1, "add", 1.0, "relu", [], ""
        )
    head = torch.ops.mkldnn._convolution_pointwise(
        planes, weights[last], biases[last], [0, 0], one, one, 1, "relu", [], ""
    )
    flat = head.permute(0, 2, 3, 1).flatten(1)
    both = torch.nn.functional.linear(flat, weights[last + 1], biases[last + 1])
    value = torch.nn.functional.linear(torch.relu(both[:, actions:]), weights[last + 2], biases[last + 2])
    return both[:, :actions].float(), torch.tanh(value.float())


def _blob_forward(rows: Tensor, weights: list[Tensor], biases: list[Tensor], actions: int) -> tuple[Tensor, Tensor]:
    """Evaluate rows; `weights` and `biases` hold input, its norm, five layers a block, hidden layer and heads.

    Written in the part of Python that TorchScript knows.
    """
    last = len(weights) - 2
    width = [biases[0].size(0)]
    token = torch.ops.mkldnn._linear_pointwise(rows.to(biases[0].dtype), weights[0], biases[0], "none", [], "")
    token = torch.nn.functional.layer_norm(token, width, weights[1], biases[1])
    for at in range(2, last, 5):
        mixed = torch.ops.mkldnn._linear_pointwise(token, token, weights[at], biases[at], "add")
        token = torch.nn.functional.layer_norm(mixed, width, weights[at + 1], biases[at + 1])
        hidden = torch.ops.mkldnn._linear_pointwise(token, weights[at + 2], biases[at + 2], "relu", [], "")
        added = torch.ops.mkldnn._linear_pointwise(hidden, token, weights[at + 3], biases[at + 3], "add")
        token = torch.nn.functional.layer_norm(added, width, weights[at + 4], biases[at + 4])
    hidden = torch.ops.mkldnn._linear_pointwise(token, weights[last], biases[last], "relu", [], "")
    both = torch.ops.mkldnn._linear_pointwise(hidden, weights[last + 1], biases[last + 1], "none", [], "").float()
    return both[:, :actions], torch.tanh(both[:, actions:])


@functools.cache
def interpreted(forward: _Forward) -> _Forward:
    """Return `forward` for TorchScript's interpreter, or itself where this torch or Python has none (slower)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script`", category=DeprecationWarning)
        try:
            scripted: _Forward = torch.jit.script(forward)
        except (RuntimeError, AttributeError, NotImplementedError):
            return forward
    return scripted


def _interpreted() -> _Forward:
    return interpreted(_forward)


def onednn_fault(dtype: torch.dtype) -> str:
    """Return why the fused operators cannot run here in `dtype`, or an empty text."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "torch was built without oneDNN"
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_convolution_pointwise", "_linear_pointwise")):
        return "this torch lacks oneDNN's fused operators"
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor lacks bf16 for oneDNN"
    return ""
