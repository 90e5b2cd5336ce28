"""A residual net on CPU with oneDNN's fused operators: convolution, bias, skip connection and ReLU in one pass.

These are the operators torch.compile emits for frozen weights; called directly they need no compilation, keep the
weights in oneDNN's own layout and let them be swapped. The sequence of calls runs in TorchScript's interpreter, which
holds no GIL, so lanes and search threads do not wait for each other. Measured on one AVX-512/AMX core, 3 blocks x 32
channels, bf16, 256 rows: 172k rows/s, 152k from Python, 97k for torch.compile of the same folded net; two lanes scale
by 2.0 (docs/performance.md).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from inference_server.folding import FoldedResNet
from inference_server.networks import Outputs

_ONE = [1, 1]  # stride and dilation of every convolution


class OneDnnResNet:
    """What FoldedResNet computes, in packed weights of one dtype."""

    def __init__(self, network: FoldedResNet, board: tuple[int, int], dtype: torch.dtype, rows: int) -> None:
        """Pack the weights of `network` for batches of about `rows` rows on a `board` of (height, width)."""
        self._board, self._rows, self._dtype = board, rows, dtype
        self._actions = network.num_actions
        self._convolutions = ["stem", *(f"trunk.{layer}" for layer in range(len(network.trunk))), "head"]
        self._linears = ["head_linear", "value_linear"]
        self._run = _interpreted()
        self.load(network.state_dict())

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the weights by those of a FoldedResNet of the same shape; nobody may be calling meanwhile."""
        with torch.inference_mode():
            names = [*self._convolutions, *self._linears]
            weights = [state[f"{name}.weight"].to(dtype=self._dtype, copy=True) for name in names]
            packed = [self._packed(weight) if weight.dim() == 4 else weight for weight in weights]
            self._weights = packed
            self._biases = [state[f"{name}.bias"].to(dtype=self._dtype, copy=True) for name in names]

    def __call__(self, observations: Tensor) -> Outputs:
        """Map rows [B, ...] of any dtype to (logits [B, A], values [B, V]), float32."""
        return self._run(observations, self._weights, self._biases, self._actions)

    def _packed(self, weight: Tensor) -> Tensor:
        """Return a convolution's weight in the layout oneDNN likes best for these batches."""
        shape = [self._rows, weight.shape[1], *self._board]
        padding = [weight.shape[2] // 2] * 2
        weight = weight.to(memory_format=torch.channels_last)
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, _ONE, _ONE, 1, shape)
        return packed


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


@functools.cache
def _interpreted() -> Callable[[Tensor, list[Tensor], list[Tensor], int], Outputs]:
    """Return `_forward` for TorchScript's interpreter, or itself where this torch or Python has none (slower)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script`", category=DeprecationWarning)
        try:
            scripted: Callable[[Tensor, list[Tensor], list[Tensor], int], Outputs] = torch.jit.script(_forward)
        except (RuntimeError, AttributeError, NotImplementedError):
            return _forward
    return scripted


def onednn_fault(dtype: torch.dtype) -> str:
    """Return why the fused operators cannot run here in `dtype`, or an empty text."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "torch was built without oneDNN"
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return "this torch lacks oneDNN's fused operators"
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor lacks bf16 for oneDNN"
    return ""
