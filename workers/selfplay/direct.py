"""A worker's own network without a server: the baselines `direct` (one position a call) and `local` (own batch)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from grove.common.errors import SettingError
from grove.inference_server.backends.compiling import Network, compile_for
from grove.inference_server.backends.cpu import CpuBackend, FloatArray
from grove.inference_server.backends.cuda import CudaBackend
from grove.inference_server.backends.execution import Execution, choose_device, choose_execution
from grove.inference_server.backends.served_network import ServedNetwork, random_rows
from grove.inference_server.backends.toolchain import compiler_fault
from grove.inference_server.interface.buckets import CPU_COMPILED, CPU_READY, CUDA_GRAPHS, bucket_for, buckets_up_to
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.models.model_file import LoadedModel, open_model

_MAX_BATCH = 256
Compile = Literal["eager", "compiled", "cpp_wrapper"]


class DirectNetwork:
    """Evaluates rows in the calling thread, on one core (or on CUDA where the settings say so).

    One position a call runs in fp32 with plain torch operators, compiled as asked: on CPU that beats bf16 and fused
    operators, whose set-up only batches repay. Several rows run exactly as a lane of the server would run them.
    """

    def __init__(self, row_spec: RowSpec, settings: NetworkSettings, compile: Compile = "eager") -> None:
        """Load the network; compilation, where asked for, ends before this returns (seconds, cached on disk).

        Raises:
            SettingError: a setting that cannot work here, or compilation without a compiler.
            ModelError: the model file cannot be used.
        """
        self._row_spec = row_spec
        self._settings = settings
        self._model = open_model(settings, row_spec)
        self.version = self._model.version
        on_cuda = choose_device(settings.device)[0].type == "cuda"
        self._single = None if on_cuda else self._single_network(compile)
        self._batches: CpuBackend | CudaBackend | None = None
        self._buffer: npt.NDArray[Any] = np.empty(0)

    def evaluate(self, observations: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Map rows [n, *observation_shape] to logits [n, A] and values [n, V], valid until the next call."""
        if len(observations) == 1 and self._single is not None:
            with torch.inference_mode():
                logits, values = self._single(torch.from_numpy(observations))
            return logits.numpy(), values.numpy()
        if self._batches is None:
            self._batches = self._new_batches()
            self._buffer = self._batches.new_host_buffer()
        parts = [self._part(observations[at : at + _MAX_BATCH]) for at in range(0, len(observations), _MAX_BATCH)]
        if len(parts) == 1:
            return parts[0]
        logits_parts, values_parts = zip(*parts, strict=True)
        return np.concatenate(logits_parts), np.concatenate(values_parts)

    def describe(self) -> dict[str, Any]:
        """Return what batches of several rows run on (see CpuBackend.describe); empty before the first of them."""
        return self._batches.describe() if self._batches else {}

    def close(self) -> None:
        """Stop compiling and give up device memory."""
        if self._batches:
            self._batches.close()

    def _part(self, observations: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        assert self._batches is not None
        rows = len(observations)
        self._buffer[:rows] = observations
        handle = self._batches.launch(self._buffer, rows, bucket_for(rows, self._batches.buckets))
        logits, values = self._batches.finish(handle)  # type: ignore[arg-type]
        return logits.copy(), values.copy()

    def _single_network(self, compile: Compile) -> Network:
        torch.set_num_threads(1)
        dtype = torch.bfloat16 if self._settings.dtype == "bf16" else torch.float32
        network = ServedNetwork(self._model, torch.device("cpu"), dtype).network
        with torch.inference_mode():
            row = random_rows(self._row_spec, 1)
            if compile == "eager":
                network(row)
                return network
            if fault := compiler_fault():
                raise SettingError.of("compile", compile, fault, "use eager or see `grove doctor`")
            return compile_for(network, row, f"single_{compile}", cpp_wrapper=compile == "cpp_wrapper")

    def _new_batches(self) -> CpuBackend | CudaBackend:
        execution = choose_execution(self._model, self._settings, _MAX_BATCH, deterministic=False)
        backend = _new_backend(self._model, execution)
        backend.warm()
        return backend


def _new_backend(model: LoadedModel, execution: Execution) -> CpuBackend | CudaBackend:
    if execution.device.type == "cuda":
        return CudaBackend(model, execution, buckets_up_to(_MAX_BATCH, CUDA_GRAPHS))
    ladder = CPU_COMPILED if execution.kind == "compiled" else CPU_READY
    return CpuBackend(model, execution, buckets_up_to(_MAX_BATCH, ladder))
