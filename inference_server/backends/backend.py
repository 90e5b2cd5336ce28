"""Backends: what runs under a lane. `make_backends` decides device, number format and execution and says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from grove.common.errors import ModelError
from grove.common.machine import usable_cores
from grove.inference_server.backends.cpu import CpuBackend
from grove.inference_server.backends.cuda import CudaBackend
from grove.inference_server.backends.execution import Execution, choose_execution
from grove.inference_server.batching import lanes as lanes_room
from grove.inference_server.interface.buckets import CPU_COMPILED, CPU_READY, CUDA_GRAPHS, buckets_up_to
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.models.model_file import LoadedModel, load_model, open_model, save_model


class Backend(lanes_room.Backend, Protocol):
    """A lane's backend with the parts that only its owner calls."""

    @property
    def recompiles(self) -> int:
        """Batches that compiled code refused and that were repeated eagerly."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what was chosen and why, as plain values."""
        ...


def make_backends(
    row_spec: RowSpec, settings: NetworkSettings, max_batch: int, lanes: int = 0, deterministic: bool = False
) -> list[Backend]:
    """Return one backend per lane for the network of `settings`; all hold the same weights and buckets.

    Args:
        row_spec: the rows to be evaluated.
        settings: network, model file, device, dtype, compilation.
        max_batch: top bucket in rows.
        lanes: how many; 0 takes one per CUDA device, or one per usable core on CPU.
        deterministic: one bucket, fp32, the same operators in every lane, so rows do not depend on their company.

    Raises:
        SettingError: a setting that cannot work here, or a network that does not fit the rows.
        ModelError: the model file cannot be used.
    """
    model = open_model(settings, row_spec)
    execution = choose_execution(model, settings, max_batch, deterministic)
    if execution.device.type == "cuda":
        return _cuda_backends(model, execution, buckets_up_to(max_batch, CUDA_GRAPHS, deterministic), lanes)
    ladder = CPU_COMPILED if execution.kind == "compiled" else CPU_READY
    buckets = buckets_up_to(max_batch, ladder, deterministic)
    return [CpuBackend(model, execution, buckets, lane) for lane in range(lanes or usable_cores())]


def _cuda_backends(model: LoadedModel, execution: Execution, buckets: tuple[int, ...], lanes: int) -> list[Backend]:
    devices = torch.cuda.device_count()
    placed = [replace(execution, device=torch.device("cuda", lane % devices)) for lane in range(lanes or devices)]
    return [CudaBackend(model, place, buckets, lane) for lane, place in enumerate(placed)]


class ModelFiles:
    """Model files for backends that are being served, as `model_watch.Source` wants them."""

    def __init__(self, row_spec: RowSpec, settings: NetworkSettings) -> None:
        self._row_spec, self._settings = row_spec, settings
        self._places: dict[str, Path] = {}  # version -> where it was loaded from last

    def load(self, path: Path) -> LoadedModel:
        """Return the model in a file.

        Raises:
            ModelError: it cannot be used.
        """
        torch.set_num_threads(1)  # of the calling thread: the cores belong to the lanes
        model = load_model(path, self._row_spec, trusted_class=self._settings.network)
        self._places[model.version] = path
        return model

    def save_start(self, version: str, path: Path) -> None:
        """Write a model that was loaded, or the one that the backends were made with, to another file.

        Raises:
            OSError: it cannot be written.
            ModelError: where it came from there is another one now.
        """
        place = self._places.get(version)
        model = open_model(self._settings, self._row_spec) if place is None else self.load(place)
        if model.version != version:
            raise ModelError(f"model {version} is not where it was; pass its file to `grove model push`")
        save_model(path, model.spec, model.row_spec, model.network.state_dict())
