"""The networks: a residual net for boards, a multilayer perceptron, blobnet, and a user's own torch.nn.Module.

All take observations [B, *observation_shape] in the delivered dtype and convert them to the dtype of their own weights,
so that rows travel to the device in their smallest form. All return logits [B, A] and values [B, V] in (-1, 1), V = 1
for two-player zero-sum games, otherwise one value per seat, the mover first. A user's network may return any floating
type; its rows and weights are contiguous. One that wants its convolutions channels-last sets `channels_last = True` and
converts its rows, as `as_planes` does.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from grove.common.errors import SettingError
from grove.common.user_class import is_class_spec, load_class
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.networks.blobnet import BLOBNET_SPECS, BlobNet, blobnet_shape

Outputs = tuple[Tensor, Tensor]
"""Logits [B, A] and values [B, V], float32."""

_POLICY_PLANES = 2
"""Planes of the policy head before its linear layer, as in AlphaGo Zero (Silver et al. 2017)."""
_VALUE_PLANES = 1
_BUILT_IN = ("resnet", "mlp", "blobnet")
_SEEDED = threading.Lock()
"""Held while weights are drawn: all threads draw from torch's one generator, and a second one would change them."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, planes: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        hidden = functional.relu(self.norm1(self.conv1(planes)))
        return functional.relu(planes + self.norm2(self.conv2(hidden)))


class ResNet(nn.Module):
    """The residual net of AlphaGo Zero (Silver et al. 2017) with a value per seat where the game needs it.

    This is the form that is trained and saved; `folding.py` turns it into the form that is served.
    """

    channels_last = True

    def __init__(self, row_spec: RowSpec, *, blocks: int, channels: int) -> None:
        super().__init__()
        planes, height, width = _board_shape(row_spec)
        cells = height * width
        self.stem_conv = nn.Conv2d(planes, channels, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(blocks))
        self.policy_conv = nn.Conv2d(channels, _POLICY_PLANES, 1, bias=False)
        self.policy_norm = nn.BatchNorm2d(_POLICY_PLANES)
        self.policy_linear = nn.Linear(_POLICY_PLANES * cells, row_spec.num_actions)
        self.value_conv = nn.Conv2d(channels, _VALUE_PLANES, 1, bias=False)
        self.value_norm = nn.BatchNorm2d(_VALUE_PLANES)
        self.value_hidden = nn.Linear(_VALUE_PLANES * cells, channels)
        self.value_linear = nn.Linear(channels, row_spec.value_size)

    def forward(self, observations: Tensor) -> Outputs:
        """Map [B, planes, H, W] of any dtype to (logits [B, A], values [B, V])."""
        planes = as_planes(observations, self.stem_conv.weight.dtype)
        planes = functional.relu(self.stem_norm(self.stem_conv(planes)))
        for block in self.blocks:
            planes = block(planes)
        policy = functional.relu(self.policy_norm(self.policy_conv(planes))).flatten(1)
        value = functional.relu(self.value_norm(self.value_conv(planes))).flatten(1)
        value = self.value_linear(functional.relu(self.value_hidden(value)))
        return self.policy_linear(policy).float(), torch.tanh(value.float())


class Mlp(nn.Module):
    """Fully connected layers over the flattened row, for games without a board."""

    def __init__(self, row_spec: RowSpec, *, layers: int, width: int) -> None:
        super().__init__()
        sizes = [math.prod(row_spec.observation_shape), *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.policy_linear = nn.Linear(sizes[-1], row_spec.num_actions)
        self.value_linear = nn.Linear(sizes[-1], row_spec.value_size)

    def forward(self, observations: Tensor) -> Outputs:
        """Map [B, *shape] of any dtype to (logits [B, A], values [B, V])."""
        hidden = observations.flatten(1).to(self.policy_linear.weight.dtype)
        for layer in self.hidden:
            hidden = functional.relu(layer(hidden))
        return self.policy_linear(hidden).float(), torch.tanh(self.value_linear(hidden).float())


def as_planes(observations: Tensor, dtype: torch.dtype) -> Tensor:
    """Return [B, H, W] or [B, planes, H, W] rows as channels-last planes of `dtype` (4-D)."""
    planes = observations if observations.dim() == 4 else observations.unsqueeze(1)
    return planes.to(dtype=dtype, memory_format=torch.channels_last)


def build_network(spec: str, row_spec: RowSpec, seed: int = 0) -> nn.Module:
    """Return the network named by `spec`, drawn from `seed`, fp32 on the current device, in evaluation mode.

    Raises:
        SettingError: an unknown network, parameter or class, a value out of range, or outputs that do not fit the game.
    """
    make = _maker(spec)
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(row_spec)
    return network.requires_grad_(False).eval()


def is_user_class(spec: str) -> bool:
    """Return whether `spec` names a user's class instead of a built-in network."""
    # `blobnet:small` would be a class by its form.
    return is_class_spec(spec) and spec.partition(":")[0] not in _BUILT_IN


@torch.inference_mode()
def check_network(network: nn.Module, row_spec: RowSpec) -> None:
    """Run two rows of zeros through `network` and refuse outputs that do not fit the game.

    Raises:
        SettingError: the call fails, or its results are not (logits [B, A], values [B, V]) in floating point, finite.
    """
    dtype = getattr(torch, row_spec.observation_dtype)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    rows = torch.zeros((2, *row_spec.observation_shape), dtype=dtype, device=device)
    try:
        outputs = network(rows)
    except Exception as error:
        raise _misfit(row_spec, f"its forward fails on them: {_one_line(error)}") from error
    if not (isinstance(outputs, tuple) and len(outputs) == 2 and all(isinstance(o, Tensor) for o in outputs)):
        raise _misfit(row_spec, f"it returns {type(outputs).__name__} instead of two tensors (logits, values)")
    wanted = ((2, row_spec.num_actions), (2, row_spec.value_size))
    found = tuple(tuple(output.shape) for output in outputs)
    if found != wanted:
        raise _misfit(row_spec, f"it answers two rows with {found[0]} and {found[1]}, not {wanted[0]} and {wanted[1]}")
    if not all(output.is_floating_point() and bool(output.isfinite().all()) for output in outputs):
        raise _misfit(row_spec, "its outputs are not finite floating-point numbers")


def _misfit(row_spec: RowSpec, fault: str) -> SettingError:
    return SettingError(
        f"the network does not fit {row_spec.game} (rows {row_spec.observation_shape} {row_spec.observation_dtype}): "
        f"{fault}; return logits [B, {row_spec.num_actions}] and values [B, {row_spec.value_size}], "
        "or choose another --network"
    )


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _board_shape(row_spec: RowSpec) -> tuple[int, int, int]:
    shape = row_spec.observation_shape
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    if len(shape) != 3:
        fault = f"it needs boards and {row_spec.game} has rows of shape {shape}"
        raise SettingError.of("network", "resnet", fault, "use mlp:layers=2,width=128 or, for blob games, blobnet")
    return shape[0], shape[1], shape[2]


def _maker(spec: str) -> Callable[[RowSpec], nn.Module]:
    if is_user_class(spec):
        return lambda row_spec: _user_network(spec, row_spec)
    name, _, text = spec.partition(":")
    if name == "resnet":
        numbers = _parameters(spec, text, {"blocks": (3, 1, 80), "channels": (32, 1, 2048)})
        return lambda row_spec: ResNet(row_spec, **numbers)
    if name == "mlp":
        numbers = _parameters(spec, text, {"layers": (2, 0, 64), "width": (128, 1, 1 << 16)})
        return lambda row_spec: Mlp(row_spec, **numbers)
    if name == "blobnet":
        shape = blobnet_shape(spec)
        return lambda row_spec: BlobNet(row_spec, shape)
    known = f"resnet:blocks=3,channels=32, mlp:layers=2,width=128, {', '.join(BLOBNET_SPECS)}"
    remedy = f"use {known} or PATH/FILE.py:Class"
    raise SettingError.of("network", spec, "no network has that name", remedy)


def _parameters(spec: str, text: str, known: dict[str, tuple[int, int, int]]) -> dict[str, int]:
    """Return the parameters in `text` over the defaults of `known` (name to default, least, most)."""
    numbers = {name: default for name, (default, _, _) in known.items()}
    for item in filter(None, text.split(",")):
        name, _, number = item.partition("=")
        if name not in known:
            raise SettingError.of("network", spec, f"{name!r} is no parameter of it", f"use {', '.join(known)}")
        _, least, most = known[name]
        if not number.isdecimal() or not least <= int(number) <= most:
            raise SettingError.of("network", spec, f"{name} must be a whole number", f"choose {least}..{most}")
        numbers[name] = int(number)
    return numbers


def _user_network(spec: str, row_spec: RowSpec) -> nn.Module:
    kind = load_class("network", spec)
    if not issubclass(kind, nn.Module):
        raise SettingError.of("network", spec, "it is no torch.nn.Module class", "name a subclass of torch.nn.Module")
    try:
        return kind(row_spec)
    except Exception as error:
        raise SettingError.of("network", spec, f"its constructor fails: {_one_line(error)}", "mend it") from error
