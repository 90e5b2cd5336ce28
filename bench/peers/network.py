"""The one network that all peers play with: a model file, with rows and the answers that it gives to them.

Every peer loads the same weights into its own form of the network and must give the same answers before it is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from grove.bench.core.stage import Figures
from grove.common.errors import PoolError
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.rows import RowSpec

if TYPE_CHECKING:
    from torch import nn

CHECKED_ROWS = 64
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Largest accepted difference of a logit or a value: rounding differs between libraries, weights must not."""
COUNTS = ("moves", "simulations", "entropy", "games", "game_moves", "game_moves_squared")
"""What a player counts: moves played, their simulations, sum of the entropies (nats) of their visits, games that ended,
moves of these, and the sum of the squares of the same."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Tensors of a batch norm that are counted, not learnt."""

Floats = npt.NDArray[np.float32]
Evaluate = Callable[[npt.NDArray[Any]], tuple[Floats, Floats]]
"""Rows [n, *observation_shape] -> logits [n, A] and values [n, 1]."""


@dataclass(frozen=True, kw_only=True)
class PeerNetwork:
    """Where the network lies and how large it is; plain values."""

    model: str
    """Its model file."""
    answers: str
    """File of `rows`, `logits` and `values`, as the network computes them in fp32."""
    parameters: int
    """Learnt numbers."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """The job that writes them, in a process of its own because it needs torch."""

    row_spec: RowSpec
    network: NetworkSettings
    folder: str

    @contextmanager
    def make(self) -> Iterator[_Exported]:
        """Write both files."""
        from grove.inference_server.models.model_file import open_model, save_model

        model = open_model(self.network, self.row_spec)
        path = Path(self.folder) / "network.safetensors"
        save_model(path, model.spec, self.row_spec, model.network.state_dict())
        rows = random_boards(self.row_spec, CHECKED_ROWS)
        logits, values = _answers(model.network, rows)
        answers = path.with_name("answers.npz")
        np.savez(answers, rows=rows, logits=logits, values=values)
        learnt = sum(parameter.numel() for parameter in model.network.parameters())
        yield _Exported({"model": str(path), "answers": str(answers), "parameters": learnt})


class _Exported:
    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said

    def ready(self) -> dict[str, Any]:
        return self._said

    def measure(self, what: str, seconds: float) -> Figures:
        """There is nothing to measure."""
        return {}


def random_boards(row_spec: RowSpec, count: int) -> npt.NDArray[Any]:
    """Return rows of zeros and ones, the same in every process."""
    drawn = np.random.default_rng(0).integers(0, 2, (count, *row_spec.observation_shape))
    return drawn.astype(row_spec.observation_dtype)


def check_same(network: PeerNetwork, evaluate: Evaluate, parameters: int, dtype: str = "fp32") -> float:
    """Return the largest difference of a peer's answers from those of the network.

    Raises PoolError when the peer's form has another number of parameters or answers otherwise.
    """
    if parameters != network.parameters:
        raise PoolError(f"its network has {parameters:,} parameters and Grove's {network.parameters:,}")
    wanted = np.load(network.answers)
    found = evaluate(wanted["rows"])
    names = ("logits", "values")
    differences = [np.abs(f - wanted[name]).max() for f, name in zip(found, names, strict=True)]
    largest = float(max(differences))
    if not math.isfinite(largest) or largest > TOLERANCE[dtype]:
        raise PoolError(f"its network differs from Grove's by {largest:.2g}; {TOLERANCE[dtype]:g} is rounding")
    return largest


def _answers(network: nn.Module, rows: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    import torch

    with torch.inference_mode():
        logits, values = network(torch.from_numpy(rows))
    return logits.numpy(), values.numpy()
