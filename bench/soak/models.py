"""Model files to push: other weights of the same network, so that their content hashes are known beforehand. Some of
them are no good, and a run must refuse those.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grove.inference_server import RowSpec
from grove.inference_server.interface.network_settings import NetworkSettings

if TYPE_CHECKING:
    from grove.inference_server.models.model_file import LoadedModel


@dataclass(frozen=True)
class MadeModels:
    """The models of a soak."""

    first: str
    """Content hash of the model that the run begins with."""
    files: tuple[tuple[str, Path], ...]
    """Content hash and file of the others."""
    bad: tuple[Path, ...]
    """Weights that are no numbers, half a file, and no model at all."""


def make_models(settings: NetworkSettings, row_spec: RowSpec, folder: Path, count: int) -> MadeModels:
    """Write `count` model files, in a process of its own: this one stays without torch. Raises GroveError."""
    folder.mkdir()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        return apart.submit(_make, settings, row_spec, folder, count).result()


def _make(settings: NetworkSettings, row_spec: RowSpec, folder: Path, count: int) -> MadeModels:
    from grove.inference_server.models.model_file import open_model, save_model
    from grove.inference_server.networks.networks import build_network

    first = open_model(settings, row_spec)
    files = []
    for number in range(1, count + 1):
        network = build_network(first.spec, row_spec, settings.network_seed + number)
        path = folder / f"model-{number}.safetensors"
        files.append((save_model(path, first.spec, row_spec, network.state_dict()), path))
    return MadeModels(first.version, tuple(files), tuple(_make_bad(first, folder, files[0][1].read_bytes())))


def _make_bad(first: LoadedModel, folder: Path, good: bytes) -> Iterator[Path]:
    from grove.inference_server.models.model_file import save_model

    path = folder / "bad-numbers.safetensors"
    state = {name: tensor * float("nan") for name, tensor in first.network.state_dict().items()}
    save_model(path, first.spec, first.row_spec, state)
    yield path
    for name, content in (("half", good[: len(good) // 2]), ("noise", bytes(range(256)) * 16)):
        path = folder / f"bad-{name}.safetensors"
        path.write_bytes(content)
        yield path
