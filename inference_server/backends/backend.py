"""Backends: what runs under a lane. `make_backends` decides device, number format and execution and says why."""

from __future__ import annotations

import threading
import time
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


def network_rate(backends: list[Backend], seconds: float, bucket: int = 0) -> float:
    """Return the peak in rows/s: these warmed backends alone, full batches of `bucket` rows (0 = top), one thread each.

    The backends must not be serving meanwhile.
    """
    bucket = bucket or backends[0].buckets[-1]
    stop = threading.Event()
    batches = [0] * len(backends)
    threads = [
        threading.Thread(target=_full_batches, args=(i, b, bucket, stop, batches)) for i, b in enumerate(backends)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(batches) * bucket / (time.perf_counter() - start)


def _full_batches(lane: int, backend: Backend, bucket: int, stop: threading.Event, batches: list[int]) -> None:
    """Keep `depth` full batches under way until `stop`; count the finished ones in batches[lane]."""
    buffers = [backend.new_host_buffer() for _ in range(backend.depth)]
    under_way = [backend.launch(buffer, bucket, bucket) for buffer in buffers[1:]]
    turn = 0
    while not stop.is_set():
        under_way.append(backend.launch(buffers[turn], bucket, bucket))
        backend.finish(under_way.pop(0))
        batches[lane] += 1
        turn = (turn + 1) % len(buffers)
    for handle in under_way:
        backend.finish(handle)
