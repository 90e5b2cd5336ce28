"""Grove's residual network in plain JAX: the same weights, batch norms folded into the convolutions as Grove serves it.

Imported only in the process of the peer that plays with JAX.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from grove.bench.peers.network import STATISTICS
from grove.common.errors import PoolError

EPSILON = 1e-5
"""Of PyTorch's batch norms."""
DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}

Tensors = Mapping[str, npt.NDArray[Any]]


class Layer(NamedTuple):
    """Weight and bias of a convolution [height, width, in, out] or of a linear layer [in, out]."""

    weight: Any
    bias: Any


class Weights(NamedTuple):
    """The folded network."""

    trunk: list[Layer]
    """The stem, then two convolutions a block."""
    policy_planes: Layer
    policy: Layer
    value_planes: Layer
    value_hidden: Layer
    value: Layer


def load_weights(path: str) -> tuple[Weights, int]:
    """Return the folded weights of a model file and how many parameters the file has.

    Raises PoolError when the file holds something else than a residual network.
    """
    tensors = load_file(path)
    if "stem_conv.weight" not in tensors:
        raise PoolError("only residual networks are written in JAX; use --network resnet:blocks=3,channels=32")
    blocks = len({name.split(".")[1] for name in tensors if re.match(r"blocks\.\d+\.conv1", name)})
    halves = [(f"blocks.{b}.conv{half}", f"blocks.{b}.norm{half}") for b in range(blocks) for half in (1, 2)]
    trunk = [_folded(tensors, conv, norm) for conv, norm in [("stem_conv", "stem_norm"), *halves]]
    learnt = sum(part.size for name, part in tensors.items() if not name.endswith(STATISTICS))
    return Weights(
        trunk,
        _folded(tensors, "policy_conv", "policy_norm"),
        _linear(tensors, "policy_linear"),
        _folded(tensors, "value_conv", "value_norm"),
        _linear(tensors, "value_hidden"),
        _linear(tensors, "value_linear"),
    ), int(learnt)


def cast(weights: Weights, dtype: str) -> Weights:
    """Return the weights on the device, as `fp32` or `bf16`."""
    cast_weights: Weights = jax.tree.map(lambda tensor: jnp.asarray(tensor, DTYPES[dtype]), weights)
    return cast_weights


def apply(weights: Weights, boards: Any) -> tuple[Any, Any]:
    """Map boards [B, H, W, planes] to logits [B, A] and values [B], float32."""
    planes = _conv(boards.astype(weights.policy.weight.dtype), weights.trunk[0])
    planes = jax.nn.relu(planes)
    for first, second in zip(weights.trunk[1::2], weights.trunk[2::2], strict=True):
        planes = jax.nn.relu(planes + _conv(jax.nn.relu(_conv(planes, first)), second))
    policy = _dense(_flat(jax.nn.relu(_conv(planes, weights.policy_planes))), weights.policy)
    value = jax.nn.relu(_dense(_flat(jax.nn.relu(_conv(planes, weights.value_planes))), weights.value_hidden))
    value = _dense(value, weights.value)[:, 0]
    return policy.astype(jnp.float32), jnp.tanh(value.astype(jnp.float32))


def _conv(planes: Any, layer: Layer) -> Any:
    form = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(planes, layer.weight, (1, 1), "SAME", dimension_numbers=form) + layer.bias


def _dense(rows: Any, layer: Layer) -> Any:
    return rows @ layer.weight + layer.bias


def _flat(planes: Any) -> Any:
    """Return [B, planes * H * W], plane by plane as PyTorch lays them out."""
    return planes.transpose(0, 3, 1, 2).reshape(planes.shape[0], -1)


def _folded(tensors: Tensors, conv: str, norm: str) -> Layer:
    scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + EPSILON)
    weight = tensors[f"{conv}.weight"] * scale.reshape(-1, 1, 1, 1)
    bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
    return Layer(np.ascontiguousarray(weight.transpose(2, 3, 1, 0)), bias)


def _linear(tensors: Tensors, name: str) -> Layer:
    return Layer(np.ascontiguousarray(tensors[f"{name}.weight"].T), tensors[f"{name}.bias"])
