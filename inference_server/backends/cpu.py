"""The CPU lane: one thread, one core, one network; oneDNN's fused operators, torch.compile or plain torch."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grove.inference_server.backends.compiling import CompiledBuckets
from grove.inference_server.backends.execution import Execution
from grove.inference_server.backends.served_network import TRIED_ROWS, ServedNetwork, Weights, random_rows
from grove.inference_server.models.model_file import LoadedModel
from grove.inference_server.networks.networks import Outputs

FloatArray = npt.NDArray[np.float32]


class CpuBackend:
    """Evaluates batches in the thread that calls it. `launch` computes, `finish` only returns."""

    depth = 1

    def __init__(self, model: LoadedModel, execution: Execution, buckets: tuple[int, ...], lane: int = 0) -> None:
        """Copy the weights of `model`; `lane` only names the compiled functions."""
        self.buckets = buckets
        self._execution = execution
        rows = buckets[-1] if execution.kind == "onednn" else 0
        self._served = ServedNetwork(model, execution.device, execution.dtype, rows)
        self._compiled: CompiledBuckets | None = None
        if execution.kind == "compiled":
            self._compiled = CompiledBuckets(self._served.network, self._rows, buckets, f"lane{lane}")
        self._thread = 0

    def version_of(self, weights: int = 0) -> str:
        """Content hash of weights, 16 hex digits."""
        return self._served.version_of(weights)

    @property
    def recompiles(self) -> int:
        """Batches that compiled code refused and that were repeated eagerly."""
        return self._compiled.recompiles if self._compiled else 0

    def warm(self) -> None:
        """Run every bucket once, eagerly, and begin compiling in the background where that is the kind."""
        for bucket in self.buckets:
            self._compute(self._rows(bucket).numpy())
        if self._compiled:
            self._compiled.start()

    def wait_compiled(self, timeout_s: float) -> bool:
        """Wait until no bucket is left to compile; return whether that is so."""
        return self._compiled is None or self._compiled.wait(timeout_s)

    def new_host_buffer(self) -> npt.NDArray[Any]:
        """Return a host array [top bucket, *observation_shape] of the observation dtype, zeroed."""
        spec = self._served.row_spec
        return np.zeros((self.buckets[-1], *spec.observation_shape), dtype=spec.observation_dtype)

    def launch(self, buffer: npt.NDArray[Any], rows: int, bucket: int, weights: int = 0) -> tuple[Outputs, int]:
        """Compute the first `bucket` rows of `buffer`, of which `rows` count; return the handle for `finish`."""
        self._served.use(weights)
        return self._compute(buffer[:bucket]), rows

    def done(self, handle: tuple[Outputs, int]) -> bool:
        """Whether `finish` would not have to wait: always."""
        return True

    def finish(self, handle: tuple[Outputs, int]) -> tuple[FloatArray, FloatArray]:
        """Return logits [rows, A] and values [rows, V]."""
        (logits, values), rows = handle
        return logits[:rows].numpy(), values[:rows].numpy()

    def prepare(self, model: LoadedModel) -> Weights:
        """See `Backend.prepare`."""
        return self._served.prepare(model)

    def try_out(self, prepared: Weights) -> None:
        """See `Backend.try_out`."""
        self._served.try_out(prepared, min(TRIED_ROWS, self.buckets[-1]))

    def install(self, weights: int, prepared: Weights) -> None:
        """See `Backend.install`."""
        self._served.install(weights, prepared)

    def remove(self, weights: int) -> None:
        """See `Backend.remove`."""
        self._served.remove(weights)

    def describe(self) -> dict[str, Any]:
        """Return device, dtype, kind of execution, their reasons, buckets, and bf16 drift."""
        execution = self._execution
        policy, value = execution.drift or (0.0, 0.0)
        return {
            "device": f"cpu ({torch.backends.cpu.get_cpu_capability()})",
            "device_reason": execution.device_reason,
            "dtype": execution.dtype_name,
            "dtype_reason": execution.dtype_reason,
            "kind": execution.kind,
            "kind_reason": (self._compiled.fault if self._compiled else "") or execution.kind_reason,
            "buckets": self.buckets,
            "compiled_buckets": self._compiled.ready if self._compiled else (),
            "policy_drift": policy,
            "value_drift": value,
        }

    def close(self) -> None:
        """Stop compiling."""
        if self._compiled:
            self._compiled.close()

    def _rows(self, bucket: int) -> Tensor:
        return random_rows(self._served.row_spec, bucket)

    def _compute(self, observations: npt.NDArray[Any]) -> Outputs:
        if threading.get_ident() != self._thread:  # torch's thread count belongs to the calling thread
            torch.set_num_threads(1)
            self._thread = threading.get_ident()
        with torch.inference_mode():
            # Made in here: compiled code tells tensors made inside and outside of inference mode apart.
            return (self._compiled or self._served)(torch.from_numpy(observations))
