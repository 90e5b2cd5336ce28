"""The CUDA lane: pinned staging, one CUDA graph per bucket, two buffer sets so that batch k+1 starts before k is back.

Three streams carry copies in, computation and copies out; events order them. All buckets are captured before READY.
The weights of a batch are copied, on the stream that computes, to where the graphs look for them; that is
done only when they differ from those of the batch before, so all models share one set of graphs.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grove.inference_server.backends.compiling import Network, compile_for
from grove.inference_server.backends.execution import Execution
from grove.inference_server.backends.served_network import TRIED_ROWS, ServedNetwork, Weights, rows_like
from grove.inference_server.models.model_file import LoadedModel
from grove.inference_server.networks.networks import Outputs

FloatArray = npt.NDArray[np.float32]

_WARM_CALLS = 3
"""Calls before a capture, as torch's documentation asks (lazy initialisation must not be captured)."""


class BufferSets:
    """Numbers of the buffer sets that are free, oldest first; a set is busy from its launch to its finish."""

    def __init__(self, count: int) -> None:
        self._free = deque(range(count))

    def take(self) -> int:
        """Return a free set.

        Raises:
            RuntimeError: more batches were launched than there are sets.
        """
        if not self._free:
            raise RuntimeError("more batches launched than the backend's depth allows")
        return self._free.popleft()

    def give_back(self, number: int) -> None:
        """Mark a set as free again."""
        self._free.append(number)


class _Set(NamedTuple):
    """Fixed memory of one batch under way, each tensor with the top bucket's rows."""

    observations: Tensor  # on the device
    logits: Tensor  # on the device, float32
    values: Tensor
    host_logits: Tensor  # pinned
    host_values: Tensor
    arrived: torch.cuda.Event
    computed: torch.cuda.Event
    returned: torch.cuda.Event


class _Handle(NamedTuple):
    number: int
    rows: int


class CudaBackend:
    """Evaluates batches on one CUDA device; `launch` and `finish` belong to the lane's thread."""

    depth = 2

    def __init__(self, model: LoadedModel, execution: Execution, buckets: tuple[int, ...], lane: int = 0) -> None:
        """Copy the weights of `model` to `execution.device`; `warm` captures the graphs."""
        self.buckets = buckets
        self.recompiles = 0
        self._execution, self._lane = execution, lane
        self._device = execution.device
        if execution.dtype == torch.float32:
            torch.backends.cudnn.allow_tf32 = False  # TF32 keeps 10 bits; served must equal direct within 1e-5
        self._served = ServedNetwork(model, self._device, execution.dtype)
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        with torch.cuda.device(self._device):
            self._copy_in, self._work, self._copy_out = (torch.cuda.Stream() for _ in range(3))  # type: ignore[no-untyped-call]
            self._sets = [self._new_set() for _ in range(self.depth)]
        self._free = BufferSets(self.depth)

    def version_of(self, weights: int = 0) -> str:
        """Content hash of weights, 16 hex digits."""
        return self._served.version_of(weights)

    def warm(self) -> None:
        """Capture one graph per bucket and buffer set, largest first so that all share the memory of the largest."""
        with torch.cuda.device(self._device), torch.inference_mode():
            pool = torch.cuda.graph_pool_handle()
            for bucket in reversed(self.buckets):
                network = self._bucket_network(bucket)
                for number in range(self.depth):
                    self._graphs[number, bucket] = self._capture(network, self._sets[number], bucket, pool)
            torch.cuda.synchronize(self._device)

    def new_host_buffer(self) -> npt.NDArray[Any]:
        """Return a pinned host array [top bucket, *observation_shape] of the observation dtype, zeroed."""
        rows: npt.NDArray[Any] = rows_like(self._served.row_spec, self.buckets[-1]).pin_memory().numpy()
        return rows

    def launch(self, buffer: npt.NDArray[Any], rows: int, bucket: int, weights: int = 0) -> _Handle:
        """Queue copy in, computation and copy out of the first `bucket` rows of `buffer`; return at once.

        Raises:
            RuntimeError: more than `depth` batches under way.
        """
        number = self._free.take()
        try:
            self._queue(number, buffer, rows, bucket, weights)
        except BaseException:
            self._free.give_back(number)
            raise
        return _Handle(number, rows)

    def _queue(self, number: int, buffer: npt.NDArray[Any], rows: int, bucket: int, weights: int) -> None:
        memory = self._sets[number]
        with torch.cuda.device(self._device), torch.inference_mode():
            with torch.cuda.stream(self._copy_in):
                memory.observations[:bucket].copy_(torch.from_numpy(buffer[:bucket]), non_blocking=True)
                memory.arrived.record()
            with torch.cuda.stream(self._work):
                self._work.wait_event(memory.arrived)
                self._served.use(weights)  # queued behind the batches before, so these still see their own weights
                self._compute(number, bucket)
                memory.computed.record()
            with torch.cuda.stream(self._copy_out):
                self._copy_out.wait_event(memory.computed)
                memory.host_logits[:rows].copy_(memory.logits[:rows], non_blocking=True)
                memory.host_values[:rows].copy_(memory.values[:rows], non_blocking=True)
                memory.returned.record()

    def done(self, handle: _Handle) -> bool:
        """Whether `finish` would not have to wait."""
        return bool(self._sets[handle.number].returned.query())  # type: ignore[no-untyped-call]

    def finish(self, handle: _Handle) -> tuple[FloatArray, FloatArray]:
        """Wait for a batch; return logits [rows, A] and values [rows, V], valid until `depth` further launches."""
        memory = self._sets[handle.number]
        try:
            memory.returned.synchronize()
        finally:
            self._free.give_back(handle.number)
        return memory.host_logits[: handle.rows].numpy(), memory.host_values[: handle.rows].numpy()

    def prepare(self, model: LoadedModel) -> Weights:
        """See `Backend.prepare`."""
        with torch.cuda.device(self._device):
            weights = self._served.prepare(model)
            torch.cuda.synchronize(self._device)  # they are read on another stream
        return weights

    def try_out(self, prepared: Weights) -> None:
        """See `Backend.try_out`."""
        with torch.cuda.device(self._device):
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
            "device": f"{self._device} ({torch.cuda.get_device_name(self._device)})",
            "device_reason": execution.device_reason,
            "dtype": execution.dtype_name,
            "dtype_reason": execution.dtype_reason,
            "kind": execution.kind,
            "kind_reason": execution.kind_reason,
            "buckets": self.buckets,
            "compiled_buckets": self.buckets if self._graphs else (),
            "policy_drift": policy,
            "value_drift": value,
        }

    def close(self) -> None:
        """Drop the graphs after the device has finished."""
        torch.cuda.synchronize(self._device)
        self._graphs.clear()

    def _new_set(self) -> _Set:
        top, spec = self.buckets[-1], self._served.row_spec
        logits = torch.zeros((top, spec.num_actions), device=self._device)
        values = torch.zeros((top, spec.value_size), device=self._device)
        events = [torch.cuda.Event(blocking=True) for _ in range(3)]  # type: ignore[no-untyped-call]  # waits sleep
        host = (
            torch.zeros_like(logits, device="cpu").pin_memory(),
            torch.zeros_like(values, device="cpu").pin_memory(),
        )
        return _Set(rows_like(spec, top, self._device), logits, values, *host, *events)

    def _bucket_network(self, bucket: int) -> Network:
        if self._execution.kind != "compiled":
            return self._served.network
        example = rows_like(self._served.row_spec, bucket, self._device)
        return compile_for(self._served.network, example, f"lane{self._lane}_{bucket}")

    def _capture(self, network: Network, memory: _Set, bucket: int, pool: Any) -> torch.cuda.CUDAGraph:
        """Record network and copy into the set's outputs, which lie outside the shared pool.

        All replays run in order on one stream, so the graphs may share the memory of their intermediate results.
        """
        self._work.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._work):
            for _ in range(_WARM_CALLS):
                self._store(network(memory.observations[:bucket]), memory, bucket)
        self._work.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=self._work, capture_error_mode="thread_local"):
            self._store(network(memory.observations[:bucket]), memory, bucket)
        return graph

    def _compute(self, number: int, bucket: int) -> None:
        """Replay the graph of this bucket; sizes without one run eagerly."""
        graph = self._graphs.get((number, bucket))
        if graph is not None:
            graph.replay()
            return
        memory = self._sets[number]
        self._store(self._served(memory.observations[:bucket]), memory, bucket)

    @staticmethod
    def _store(outputs: Outputs, memory: _Set, bucket: int) -> None:
        memory.logits[:bucket].copy_(outputs[0])
        memory.values[:bucket].copy_(outputs[1])
