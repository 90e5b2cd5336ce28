"""The network of blob games: transformer layers over the one row of a position.

The origin is a PyTorch encoder (post-norm, ReLU) whose sequence is one token long. Attention over one token is the
token's own value, projected: the softmax of a single score is 1. Query and key therefore get no gradient and never
matter, and neither does the learned position, a second bias beside that of the first layer norm. `blobnet` leaves all
three out; `blobnet:origin` keeps them, so that its numbers of parameters and those published agree: 4,917,301 with one
value per row, and 361,269 for width 128, two blocks and feed-forward 256. Both numbers together leave only the heads
used here (policy 256, value 128 hidden units).

`folding.py` turns this form, which is trained and saved, into the one that is served.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from grove.common.errors import SettingError
from grove.inference_server.interface.rows import RowSpec

ROW_UNIT = 120
"""The delivered int8 that stands for 1, the game's own scale; bf16 and fp32 hold such numbers exactly."""
_ROW = (256,)
_ACTIONS = 52
_MAX_CARDS = 13
"""Bids 0..13 have places in a row; more cards a hand would need more."""
_CARDS = ("cards", "match")
"""Parameters of a blob game that bound the cards of a hand."""


@dataclass(frozen=True, kw_only=True)
class BlobNetShape:
    """Sizes of one variant."""

    blocks: int
    width: int
    feed_forward: int
    policy_hidden: int
    value_hidden: int = 128
    origin: bool = False
    """Keep query, key and position, which have no effect."""


_VARIANTS = {
    "": BlobNetShape(blocks=6, width=256, feed_forward=1024, policy_hidden=256),
    "small": BlobNetShape(blocks=3, width=128, feed_forward=256, policy_hidden=128),
    "origin": BlobNetShape(blocks=6, width=256, feed_forward=1024, policy_hidden=256, origin=True),
}
BLOBNET_SPECS = tuple(f"blobnet:{variant}" if variant else "blobnet" for variant in _VARIANTS)
"""Every spec of this network."""


class BlobBlock(nn.Module):
    """A transformer encoder layer for a sequence of one: value projections and feed-forward, each plus skip, normed."""

    def __init__(self, shape: BlobNetShape) -> None:
        super().__init__()
        width = shape.width
        if shape.origin:
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, shape.feed_forward)
        self.linear2 = nn.Linear(shape.feed_forward, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, token: Tensor) -> Tensor:
        """Map [B, width] to the same shape."""
        token = self.norm1(token + self.out(self.value(token)))
        hidden: Tensor = self.norm2(token + self.linear2(functional.relu(self.linear1(token))))
        return hidden


class BlobNet(nn.Module):
    """The trained form: rows of a blob game to a logit per card (also the bids) and a value per player, mover first."""

    row_unit = ROW_UNIT

    def __init__(self, row_spec: RowSpec, shape: BlobNetShape) -> None:
        """Draw the weights.

        Raises:
            SettingError: rows of another game, or of more cards a hand than a row can say.
        """
        super().__init__()
        _check_rows(row_spec)
        self.shape = shape
        self.input = nn.Linear(_ROW[0], shape.width)
        self.input_norm = nn.LayerNorm(shape.width)
        self.position = nn.Parameter(torch.zeros(shape.width)) if shape.origin else None
        self.blocks = nn.ModuleList(BlobBlock(shape) for _ in range(shape.blocks))
        self.policy_hidden = nn.Linear(shape.width, shape.policy_hidden)
        self.policy_linear = nn.Linear(shape.policy_hidden, row_spec.num_actions)
        self.value_hidden = nn.Linear(shape.width, shape.value_hidden)
        self.value_linear = nn.Linear(shape.value_hidden, row_spec.value_size)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Map rows [B, 256] int8 in units of 1/120 to (logits [B, 52], values [B, V]), both float32."""
        token = self.input_norm(self.input(observations.to(self.input.weight.dtype) / ROW_UNIT))
        if self.position is not None:
            token = token + self.position
        for block in self.blocks:
            token = block(token)
        policy = self.policy_linear(functional.relu(self.policy_hidden(token)))
        value = self.value_linear(functional.relu(self.value_hidden(token)))
        return policy.float(), torch.tanh(value.float())


def blobnet_shape(spec: str) -> BlobNetShape:
    """Return the sizes of the variant named by `spec`: `blobnet`, `blobnet:small` or `blobnet:origin`.

    Raises:
        SettingError: no such variant.
    """
    variant = spec.partition(":")[2]
    if variant not in _VARIANTS:
        remedy = f"use {', '.join(BLOBNET_SPECS[:-1])} or {BLOBNET_SPECS[-1]}"
        raise SettingError.of("network", spec, f"blobnet has no variant {variant!r}", remedy)
    return _VARIANTS[variant]


def _check_rows(row_spec: RowSpec) -> None:
    rows = (row_spec.observation_shape, row_spec.observation_dtype, row_spec.num_actions)
    if rows != (_ROW, "int8", _ACTIONS):
        fault = f"{row_spec.game} has rows {rows[0]} {rows[1]} and {rows[2]} actions and blobnet is for blob games"
        raise SettingError.of("network", "blobnet", fault, "use mlp:layers=2,width=128 or resnet:blocks=3,channels=32")
    for item in row_spec.game.partition(":")[2].split(","):
        name, _, number = item.partition("=")
        if name in _CARDS and number.isdecimal() and int(number) > _MAX_CARDS:
            fault = f"{row_spec.game} deals up to {int(number)} cards and a row holds bids of 0..{_MAX_CARDS}"
            raise SettingError.of("network", "blobnet", fault, f"choose {name}={_MAX_CARDS} or less, or mlp:...")
