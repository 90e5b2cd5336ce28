"""The served form of a residual net: batch norm folded into the convolutions, both heads in one layer each.

Folding happens whenever weights are loaded, never in the served graph, so weights are still swapped in place. It is
worth a fifth of the throughput on CPU against batch norm left to the compiler (docs/performance.md).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference_server.networks import Outputs, ResNet, as_planes

_State = Mapping[str, Tensor]


class FoldedResNet(nn.Module):
    """A ResNet without batch norm, with one 1x1 convolution and one linear layer for both heads.

    The head's linear layer reads its planes channel-last, so the flattening copies nothing.
    """

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


def served_form(network: nn.Module) -> nn.Module:
    """Return a module for inference only that computes what `network` computes (its own copy of the weights)."""
    if isinstance(network, ResNet):
        return FoldedResNet(network).requires_grad_(False).eval()
    return copy.deepcopy(network).requires_grad_(False).eval()


def served_state(network_kind: type[nn.Module], state: _State) -> dict[str, Tensor]:
    """Return the weights of the served form of a network of class `network_kind` with weights `state`."""
    return fold_state(state) if issubclass(network_kind, ResNet) else dict(state)


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
