"""Model files to push: other weights of the same network, so that their content hashes are known beforehand."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from inference_server import RowSpec
from inference_server.network_settings import NetworkSettings


@dataclass(frozen=True)
class MadeModels:
    """The models of a soak."""

    first: str
    """Content hash of the model that the run begins with."""
    files: tuple[tuple[str, Path], ...]
    """Content hash and file of the others."""


def make_models(settings: NetworkSettings, row_spec: RowSpec, folder: Path, count: int) -> MadeModels:
    """Write `count` model files, in a process of its own: this one stays without torch. Raises GroveError."""
    folder.mkdir()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        return apart.submit(_make, settings, row_spec, folder, count).result()


def _make(settings: NetworkSettings, row_spec: RowSpec, folder: Path, count: int) -> MadeModels:
    from inference_server.model_file import open_model, save_model
    from inference_server.networks import build_network

    first = open_model(settings, row_spec)
    files = []
    for number in range(1, count + 1):
        network = build_network(first.spec, row_spec, settings.network_seed + number)
        path = folder / f"model-{number}.safetensors"
        files.append((save_model(path, first.spec, row_spec, network.state_dict()), path))
    return MadeModels(first.version, tuple(files))
