"""The served forms of the built-in networks: what can be computed once per load is not computed per row.

A residual net loses its batch norms and joins its heads; blobnet loses attention and joins its heads. Folding happens
whenever weights are loaded, never in the served graph, so weights are still swapped in place. For residual nets it is
worth a fifth of the throughput on CPU against batch norm left to the compiler (docs/performance.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from grove.inference_server.networks.blobnet import ROW_UNIT, BlobNet
from grove.inference_server.networks.networks import Outputs, ResNet, as_planes

_State = Mapping[str, Tensor]


class FoldedResNet(nn.Module):
    """A ResNet without batch norm, with one 1x1 convolution and one linear layer for both heads.

    The head's linear layer reads its planes channel-last, so the flattening copies nothing.
    """

    channels_last = True

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        channels, planes = network.stem_conv.out_channels, network.stem_conv.in_channels
        head_planes = network.policy_conv.out_channels + network.value_conv.out_channels
        cells = network.value_hidden.in_features // network.value_conv.out_channels
        self.num_actions = network.policy_linear.out_features
        self.stem = nn.Conv2d(planes, channels, 3, padding=1)
        self.trunk = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2 * len(network.blocks)))
        self.head = nn.Conv2d(channels, head_planes, 1)
        self.head_linear = nn.Linear(head_planes * cells, self.num_actions + network.value_hidden.out_features)
        self.value_linear = nn.Linear(network.value_linear.in_features, network.value_linear.out_features)
        self.load_state_dict(fold_state(network.state_dict()))

    def forward(self, observations: Tensor) -> Outputs:
        """Map rows [B, ...] of any dtype to (logits [B, A], values [B, V])."""
        planes = functional.relu(self.stem(as_planes(observations, self.stem.weight.dtype)))
        for first, second in zip(self.trunk[::2], self.trunk[1::2], strict=True):
            planes = functional.relu(planes + second(functional.relu(first(planes))))
        return self.heads(functional.relu(self.head(planes)))

    def heads(self, planes: Tensor) -> Outputs:
        """Map the head's planes [B, 3, H, W] to (logits, values)."""
        both = self.head_linear(planes.permute(0, 2, 3, 1).flatten(1))
        value = self.value_linear(functional.relu(both[:, self.num_actions :]))
        return both[:, : self.num_actions].float(), torch.tanh(value.float())


class FoldedBlobBlock(nn.Module):
    """One transformer layer over one token, its value and output projections multiplied into one matrix."""

    def __init__(self, width: int, feed_forward: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, feed_forward)
        self.linear2 = nn.Linear(feed_forward, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, token: Tensor) -> Tensor:
        """Map [B, width] to the same shape."""
        token = self.norm1(token + self.mix(token))
        hidden: Tensor = self.norm2(token + self.linear2(functional.relu(self.linear1(token))))
        return hidden


class FoldedBlobNet(nn.Module):
    """A BlobNet of any variant in the layers that matter, both heads in two linear layers together.

    The second of them multiplies zeros where a head would read the other's hidden units: cheaper than another call.
    """

    def __init__(self, network: BlobNet) -> None:
        super().__init__()
        shape = network.shape
        hidden = shape.policy_hidden + shape.value_hidden
        self.num_actions = network.policy_linear.out_features
        self.input = nn.Linear(network.input.in_features, shape.width)
        self.input_norm = nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(FoldedBlobBlock(shape.width, shape.feed_forward) for _ in network.blocks)
        self.hidden = nn.Linear(shape.width, hidden)
        self.heads = nn.Linear(hidden, self.num_actions + network.value_linear.out_features)
        self.load_state_dict(fold_blob_state(network.state_dict()))

    def forward(self, observations: Tensor) -> Outputs:
        """Map rows [B, 256] int8 to (logits [B, A], values [B, V])."""
        token = self.input_norm(self.input(observations.to(self.input.weight.dtype)))
        for block in self.blocks:
            token = block(token)
        both = self.heads(functional.relu(self.hidden(token))).float()
        return both[:, : self.num_actions], torch.tanh(both[:, self.num_actions :])


def served_form(network: nn.Module) -> nn.Module:
    """Return a module for inference only that computes what `network` computes (its own copy of the weights)."""
    folding = _FOLDINGS.get(type(network))
    module = folding.form(network) if folding else copy.deepcopy(network)
    return module.requires_grad_(False).eval()


def served_state(network_kind: type[nn.Module], state: _State) -> dict[str, Tensor]:
    """Return the weights of the served form of a network of class `network_kind` with weights `state`."""
    folding = _FOLDINGS.get(network_kind)
    return folding.state(state) if folding else dict(state)


def fold_state(state: _State) -> dict[str, Tensor]:
    """Return FoldedResNet weights equal to the ResNet weights `state` in evaluation mode."""
    folded: dict[str, Tensor] = {}
    _fold(state, "stem_conv", "stem_norm", folded, "stem")
    blocks = sum(key.startswith("blocks.") and key.endswith(".conv1.weight") for key in state)
    for block in range(blocks):
        for half in (1, 2):
            source = f"blocks.{block}."
            _fold(state, f"{source}conv{half}", f"{source}norm{half}", folded, f"trunk.{2 * block + half - 1}")
    heads: dict[str, Tensor] = {}
    _fold(state, "policy_conv", "policy_norm", heads, "policy")
    _fold(state, "value_conv", "value_norm", heads, "value")
    for part in ("weight", "bias"):
        folded[f"head.{part}"] = torch.cat([heads[f"policy.{part}"], heads[f"value.{part}"]])
        folded[f"value_linear.{part}"] = state[f"value_linear.{part}"]
    folded["head_linear.bias"] = torch.cat([state["policy_linear.bias"], state["value_hidden.bias"]])
    folded["head_linear.weight"] = _joined_linear(state, len(heads["policy.bias"]), len(heads["value.bias"]))
    return folded


def _fold(state: _State, conv: str, norm: str, out: dict[str, Tensor], name: str, epsilon: float = 1e-5) -> None:
    """Fold batch norm `norm` (running statistics) into the convolution `conv` before it; PyTorch's default epsilon."""
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + epsilon)
    out[f"{name}.weight"] = state[f"{conv}.weight"] * scale.reshape(-1, 1, 1, 1)
    out[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale


def _joined_linear(state: _State, policy_planes: int, value_planes: int) -> Tensor:
    """Return [A + hidden, cells * planes]: each head reads only its own planes, the rest of the matrix is zero."""
    policy, value = state["policy_linear.weight"], state["value_hidden.weight"]
    actions, hidden = policy.shape[0], value.shape[0]
    cells = value.shape[1] // value_planes
    joined = policy.new_zeros(actions + hidden, cells, policy_planes + value_planes)
    joined[:actions, :, :policy_planes] = policy.reshape(actions, policy_planes, cells).transpose(1, 2)
    joined[actions:, :, policy_planes:] = value.reshape(hidden, value_planes, cells).transpose(1, 2)
    return joined.flatten(1)


def fold_blob_state(state: _State) -> dict[str, Tensor]:
    """Return FoldedBlobNet weights equal to the BlobNet weights `state`; query and key are dropped."""
    kept = ("norm1", "linear1", "linear2", "norm2")  # of a block, as they are
    folded = {name: state[name] for name in state if name.startswith("blocks.") and name.split(".")[2] in kept}
    folded["input.weight"] = state["input.weight"] / ROW_UNIT
    folded["input.bias"] = state["input.bias"]
    folded["input_norm.weight"] = state["input_norm.weight"]
    position = state.get("position")
    bias = state["input_norm.bias"]
    folded["input_norm.bias"] = bias if position is None else bias + position
    for name in [name for name in state if name.endswith(".value.weight")]:
        block = name.removesuffix(".value.weight")
        folded[f"{block}.mix.weight"], folded[f"{block}.mix.bias"] = _merged_attention(state, block)
    for part in ("weight", "bias"):
        folded[f"hidden.{part}"] = torch.cat([state[f"policy_hidden.{part}"], state[f"value_hidden.{part}"]])
    heads = (state["policy_linear.weight"], state["value_linear.weight"])
    folded["heads.weight"] = torch.block_diag(*heads)  # type: ignore[no-untyped-call]
    folded["heads.bias"] = torch.cat([state["policy_linear.bias"], state["value_linear.bias"]])
    return folded


def _merged_attention(state: _State, block: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of out(value(x))."""
    value, value_bias, out, out_bias = (
        state[f"{block}.{layer}.{part}"] for layer in ("value", "out") for part in ("weight", "bias")
    )
    return out @ value, out @ value_bias + out_bias


class _Folding(NamedTuple):
    """How one class of network is served."""

    form: Callable[[Any], nn.Module]
    state: Callable[[_State], dict[str, Tensor]]


_FOLDINGS: dict[type[nn.Module], _Folding] = {
    ResNet: _Folding(FoldedResNet, fold_state),
    BlobNet: _Folding(FoldedBlobNet, fold_blob_state),
}
"""By exact class: a subclass may compute something else, so it is served as it is."""
