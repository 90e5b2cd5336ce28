"""Row specs and small networks shared by the tests of networks and backends."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.models.model_file import LoadedModel, model_version

FOUR = RowSpec(
    game="connect_four",
    observation_shape=(2, 6, 7),
    observation_dtype="uint8",
    num_actions=7,
    num_players=2,
    zero_sum=True,
)
THREE = RowSpec(
    game="three", observation_shape=(5,), observation_dtype="float32", num_actions=4, num_players=3, zero_sum=False
)
TINY = "resnet:blocks=1,channels=8"


def rows_of(spec: RowSpec, count: int, seed: int = 0) -> np.ndarray:
    """Random rows of zeros and ones [count, *shape]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (count, *spec.observation_shape)).astype(spec.observation_dtype)


def model_of(spec: str, network: nn.Module, rows: RowSpec = FOUR) -> LoadedModel:
    """The network as if it came from a model file."""
    version = model_version(spec, rows, network.state_dict())
    return LoadedModel(spec=spec, row_spec=rows, network=network, version=version)


def shake_norms(network: nn.Module) -> None:
    """Give every batch norm statistics that matter, as training would."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 2.0)
            module.bias.data.normal_()


class UserNet(nn.Module):
    """A user's own network in the documented form."""

    def __init__(self, row_spec: RowSpec) -> None:
        super().__init__()
        size = int(np.prod(row_spec.observation_shape))
        self.body = nn.Linear(size, 16)
        self.policy = nn.Linear(16, row_spec.num_actions)
        self.value = nn.Linear(16, row_spec.value_size)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(observations.flatten(1).to(self.body.weight.dtype)).relu()
        return self.policy(hidden).float(), self.value(hidden).float().tanh()


class TutorialNet(nn.Module):
    """A convolutional network as tutorials write them: flattens by `view`, answers in the type of its weights."""

    def __init__(self, row_spec: RowSpec) -> None:
        super().__init__()
        planes, height, width = row_spec.observation_shape
        self.size = 4 * height * width
        self.conv = nn.Conv2d(planes, 4, 3, padding=1)
        self.policy = nn.Linear(self.size, row_spec.num_actions)
        self.value = nn.Linear(self.size, row_spec.value_size)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        planes = self.conv(observations.to(self.conv.weight.dtype)).relu().view(-1, self.size)
        return self.policy(planes), self.value(planes).tanh()


class WrongShape(UserNet):
    """Answers with one logit too many."""

    def __init__(self, row_spec: RowSpec) -> None:
        super().__init__(row_spec)
        self.policy = nn.Linear(16, row_spec.num_actions + 1)


class OneTensor(UserNet):
    """Forgets the values."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations)[0]
