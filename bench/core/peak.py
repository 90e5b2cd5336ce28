"""The peak: the same network alone, full batches, same cores, best lanes and bucket, in a process of its own.

The process finds the best lanes and bucket in a short sweep, then sits paused and measures for a slice when told, so
that the peak is taken beside every round of a comparison. The supervisor itself never imports torch.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from grove.bench.core.slices import cpu_seconds
from grove.common.errors import GroveError, PoolError
from grove.common.machine import gpus, usable_cores
from grove.inference_server import RowSpec
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.workers.pool.fork_server import SERVERS
from grove.workers.selfplay.control_pipe import ControlPipe

if TYPE_CHECKING:
    from grove.inference_server.backends.backend import Backend

SWEEP_S = 0.25
"""Seconds of measuring a candidate in each pass."""
GRID_S = 0.15
"""The same of a thorough sweep, which has many more candidates."""
LADDER_S = 0.1
"""Seconds of measuring each size of a batch in each pass."""
_PASSES = 2
"""A candidate counts by its best pass: a core lost for a moment must not choose the peak."""
_CPU_BUCKETS = (64, 128, 256, 512)
_CUDA_BUCKETS = (256, 512, 1024, 2048, 4096)
_LARGE_BUCKET = 1024
"""Of a thorough sweep: beyond what CPU batches usually gain from."""
_MANY_CORES = 8
_COMPILE_S = 600.0
_IDLE_S = 60.0
_EXIT_S = 5.0

Shape = tuple[int, int]
"""Lanes, and rows of their batches."""


@dataclass(frozen=True, kw_only=True)
class PeakJob:
    """Whose peak it is; plain values."""

    row_spec: RowSpec
    network: NetworkSettings
    max_batch: int
    """The server's top bucket: one of the candidates."""
    thorough: bool = False
    """Try every bucket, and a larger one, with 1, 2, 4... lanes, and the best in smaller batches too: its `ladder`."""


class Peak:
    """The process that measures the peak; use as a context manager."""

    def __init__(self, job: PeakJob) -> None:
        """Start the process; see `wait_ready`."""
        mine, theirs = multiprocessing.Pipe()
        self._pipe = ControlPipe(mine)
        self._child = SERVERS.start(main, (job, theirs), "grove-peak")
        theirs.close()
        self.found: dict[str, Any] = {}
        """Of the sweep: `lanes`, `bucket`, `backend` (as described by itself), `tried`, a list of its rates, and of a
        thorough one `ladder`: pairs of rows a batch and rate."""

    @property
    def processes(self) -> list[int]:
        """Its process number."""
        return [self._child.pid]

    def wait_ready(self) -> None:
        """Wait for the end of the sweep. Raises PoolError with the process's own words when it fails."""
        self.found = self._expect("ready", _COMPILE_S)

    def measure(self, seconds: float) -> tuple[float, float]:
        """Return the network's rows per second over `seconds`, and the processor seconds each row took."""
        used, began = cpu_seconds(self.processes), time.perf_counter()
        self._pipe.send("measure", seconds)
        rate = float(self._expect("rate", seconds + 60.0))
        rows = rate * (time.perf_counter() - began)
        return rate, (cpu_seconds(self.processes) - used) / rows

    def __enter__(self) -> Peak:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("stop")
        self._child.end(_EXIT_S)
        self._pipe.close()

    def _expect(self, kind: str, limit_s: float) -> Any:
        message = self._pipe.receive(limit_s)
        if message is None:
            raise PoolError(f"the network alone gave no {kind} within {limit_s:.0f} s; see `grove doctor`")
        if message[0] != kind:
            raise PoolError(str(message[1]) if len(message) > 1 else "the process of the peak has ended")
        return message[1]


def main(job: PeakJob, connection: Connection) -> None:
    """Sweep, then measure on demand until told to stop or the supervisor is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = ControlPipe(connection)
    try:
        _serve(job, pipe)
    except GroveError as error:
        pipe.send("failed", str(error))
    except Exception as error:
        pipe.send("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        pipe.close()


def _serve(job: PeakJob, pipe: ControlPipe) -> None:
    backends, found = _sweep(job)
    pipe.send("ready", found)
    while True:
        message = pipe.receive(_IDLE_S)
        if message is None:
            continue
        if message[0] == "stop":
            return
        pipe.send("rate", network_rate(backends, message[1], found["bucket"]))


class _Sweep:
    """Pools of warm lanes, and the rates of what was tried. Fewer lanes than a pool has are the first of them."""

    def __init__(self, job: PeakJob) -> None:
        """Make and warm the pools."""
        from grove.inference_server.backends.backend import make_backends

        first = make_backends(job.row_spec, job.network, job.max_batch, 0)
        self.described = first[0].describe()
        _close(first)
        # The number format is decided once: the candidates must not differ in it.
        network = replace(job.network, dtype=self.described["dtype"])
        on_gpu = not str(self.described["device"]).startswith("cpu")
        self.usual, self.lanes = _lane_counts(on_gpu, job.thorough)
        self.buckets = sorted({job.max_batch, *(_CUDA_BUCKETS if on_gpu else _CPU_BUCKETS)})
        if job.thorough:
            self.buckets = sorted({*self.buckets, _LARGE_BUCKET})
        self._by_cpu = job.thorough and not on_gpu
        self.tried: list[dict[str, float]] = []
        self._pools: dict[int, list[Backend]] = {}
        for bucket in reversed(self.buckets):  # the first pool has the other buckets too, an odd `max_batch` apart
            same = (pool for pool in self._pools.values() if bucket in pool[0].buckets)
            pool = next(same, None) or make_backends(job.row_spec, network, bucket, max(self.lanes))
            if pool not in self._pools.values():
                _warm(pool)
            self._pools[bucket] = pool

    def backends(self, lanes: int, bucket: int) -> list[Backend]:
        """Return the lanes of a candidate."""
        return self._pools[bucket][:lanes]

    def best_of(self, candidates: Sequence[Shape], seconds: float) -> Shape:
        """Measure candidates in turn, twice, each by its better rate; return the fastest of all so far."""
        rates, costs = dict.fromkeys(candidates, 0.0), dict.fromkeys(candidates, float("inf"))
        for _ in range(_PASSES):
            for lanes, bucket in candidates:
                used = time.process_time()
                rate = network_rate(self.backends(lanes, bucket), seconds, bucket)
                cost = (time.process_time() - used) / (rate * seconds)
                costs[lanes, bucket] = min(costs[lanes, bucket], cost)
                rates[lanes, bucket] = max(rates[lanes, bucket], rate)
        for lanes, bucket in candidates:
            found = {"rows_per_second": rates[lanes, bucket], "cpu_us": 1e6 * costs[lanes, bucket]}
            self.tried.append({"lanes": lanes, "bucket": bucket, **found})
        best = max(self.tried, key=self._speed)
        return int(best["lanes"]), int(best["bucket"])

    def _speed(self, one: dict[str, float]) -> float:
        """Return the rate to choose by: of a thorough sweep as if no other program used the cores meanwhile."""
        return one["lanes"] / one["cpu_us"] if self._by_cpu else one["rows_per_second"]

    def keep(self, lanes: int, bucket: int) -> list[Backend]:
        """Close all but the lanes of one candidate, and return these."""
        kept = self.backends(lanes, bucket)
        for pool in {id(pool): pool for pool in self._pools.values()}.values():
            _close([backend for backend in pool if backend not in kept])
        return kept


def _sweep(job: PeakJob) -> tuple[list[Backend], dict[str, Any]]:
    """Try all buckets with the usual lanes, then other lanes with the best bucket, or all of both; keep the fastest."""
    sweep = _Sweep(job)
    if job.thorough:
        lanes, bucket = sweep.best_of(list(product(sweep.lanes, sweep.buckets)), GRID_S)
    else:
        lanes, bucket = sweep.best_of([(sweep.usual, bucket) for bucket in sweep.buckets], SWEEP_S)
        lanes, bucket = sweep.best_of([(lanes, bucket) for lanes in sweep.lanes if lanes != sweep.usual], SWEEP_S)
    backends = sweep.keep(lanes, bucket)
    found = {"lanes": lanes, "bucket": bucket, "tried": sweep.tried, "backend": sweep.described}
    if job.thorough:
        found["ladder"] = _ladder(backends, bucket)
    return backends, found


def _ladder(backends: list[Backend], top: int) -> list[tuple[int, float]]:
    """Return the rates of the doublings among the buckets up to `top`, and of that one."""
    sizes = [rows for rows in backends[0].buckets if rows <= top and (rows.bit_count() == 1 or rows == top)]
    rates = dict.fromkeys(sizes, 0.0)
    for _ in range(_PASSES):
        rates = {rows: max(rate, network_rate(backends, LADDER_S, rows)) for rows, rate in rates.items()}
    return list(rates.items())


def _lane_counts(on_gpu: bool, thorough: bool) -> tuple[int, tuple[int, ...]]:
    """Return the usual number of lanes, and all numbers worth trying."""
    usual = len(gpus().devices) if on_gpu else usable_cores()
    if on_gpu:
        return usual, (usual, 2 * usual)
    if thorough:
        return usual, (*(1 << power for power in range((usual - 1).bit_length())), usual)
    # Half of them where they may be hyperthreads or short of memory bandwidth. Not with few cores: there a sweep that
    # runs while one of them is taken away would choose too low a peak.
    return usual, (usual, usual // 2) if usual >= _MANY_CORES else (usual,)


def _warm(backends: list[Backend]) -> None:
    for backend in backends:
        backend.warm()
    for waiting in _waits(backends):
        waiting(_COMPILE_S)
    network_rate(backends, SWEEP_S / 4)


def _waits(backends: list[Backend]) -> Iterator[Any]:
    """Yield what waits for background compilation, where there is any."""
    for backend in backends:
        if hasattr(backend, "wait_compiled"):
            yield backend.wait_compiled


def _close(backends: list[Backend]) -> None:
    for backend in backends:
        backend.close()


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
