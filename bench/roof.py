"""The roof: the same network alone, full batches, same cores, best lanes and bucket, in a process of its own.

The process finds the best lanes and bucket in a short sweep, then sits paused and measures for a slice when told, so
that the roof is taken beside every round of a comparison. The supervisor itself never imports torch.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from bench.slices import cpu_seconds
from common.errors import GroveError, PoolError
from common.machine import gpus, usable_cores
from inference_server import RowSpec
from inference_server.network_settings import NetworkSettings
from workers.children import process_context, start_child
from workers.port import Port

if TYPE_CHECKING:
    from inference_server.backend import Backend

SWEEP_S = 0.25
"""Seconds of measuring a candidate in each pass."""
LADDER_S = 0.1
"""Seconds of measuring each size of a batch in each pass."""
_PASSES = 2
"""A candidate counts by its best pass: a core lost for a moment must not choose the roof."""
_CPU_BUCKETS = (64, 128, 256, 512)
_CUDA_BUCKETS = (256, 512, 1024, 2048, 4096)
_MANY_CORES = 8
_COMPILE_S = 600.0
_IDLE_S = 60.0
_EXIT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class RoofJob:
    """Whose roof it is; plain values."""

    row_spec: RowSpec
    network: NetworkSettings
    max_batch: int
    """The server's top bucket: one of the candidates."""
    ladder: bool = False
    """Measure the fastest candidate in smaller batches too: its `ladder`."""


class Roof:
    """The process that measures the roof; use as a context manager."""

    def __init__(self, job: RoofJob, game_spec: str) -> None:
        """Start the process; see `wait_ready`. `game_spec` names the kernels that the forkserver preloads."""
        context = process_context(game_spec)
        mine, theirs = context.Pipe()
        self._port = Port(mine)
        self._child = start_child(context.Process(target=main, args=(job, theirs), name="grove-roof"))
        theirs.close()
        self.found: dict[str, Any] = {}
        """Of the sweep: `lanes`, `bucket`, `backend` (as described by itself), `tried`, a list of its rates, and where
        asked for `ladder`: pairs of rows a batch and rate."""

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
        self._port.send("measure", seconds)
        rate = float(self._expect("rate", seconds + 60.0))
        rows = rate * (time.perf_counter() - began)
        return rate, (cpu_seconds(self.processes) - used) / rows

    def __enter__(self) -> Roof:
        return self

    def __exit__(self, *_: object) -> None:
        self._port.send("stop")
        self._child.end(_EXIT_S)
        self._port.close()

    def _expect(self, kind: str, limit_s: float) -> Any:
        message = self._port.receive(limit_s)
        if message is None:
            raise PoolError(f"the network alone gave no {kind} within {limit_s:.0f} s; see `grove doctor`")
        if message[0] != kind:
            raise PoolError(str(message[1]) if len(message) > 1 else "the process of the roof has ended")
        return message[1]


def main(job: RoofJob, connection: Connection) -> None:
    """Sweep, then measure on demand until told to stop or the supervisor is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    port = Port(connection)
    try:
        _serve(job, port)
    except GroveError as error:
        port.send("failed", str(error))
    except Exception as error:
        port.send("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        port.close()


def _serve(job: RoofJob, port: Port) -> None:
    from inference_server.backend import network_rate

    backends, found = _sweep(job)
    port.send("ready", found)
    while True:
        message = port.receive(_IDLE_S)
        if message is None:
            continue
        if message[0] == "stop":
            return
        port.send("rate", network_rate(backends, message[1]))


def _sweep(job: RoofJob) -> tuple[list[Backend], dict[str, Any]]:
    """Try every bucket with the usual lanes, then other numbers of lanes with the best bucket; keep the fastest."""
    from inference_server.backend import make_backends, network_rate

    first = make_backends(job.row_spec, job.network, job.max_batch, 0)
    described = first[0].describe()
    _close(first)
    # The number format is decided once: the candidates must not differ in it.
    network = replace(job.network, dtype=described["dtype"])
    on_gpu = not str(described["device"]).startswith("cpu")
    usual, other = _lane_counts(on_gpu)
    buckets = sorted({job.max_batch, *(_CUDA_BUCKETS if on_gpu else _CPU_BUCKETS)})
    tried: list[dict[str, float]] = []

    def best_of(candidates: list[tuple[int, int]], kept: list[Backend]) -> list[Backend]:
        """Measure candidates (lanes, bucket) and `kept` in turn, twice, each by its better rate; close the others."""
        pools = [make_backends(job.row_spec, network, bucket, lanes) for lanes, bucket in candidates]
        for backends in pools:
            _warm(backends)
        pools += [kept] if kept else []
        rates, costs = [0.0] * len(pools), [float("inf")] * len(pools)
        for _ in range(_PASSES):
            for number, pool in enumerate(pools):
                used = time.process_time()
                rate = network_rate(pool, SWEEP_S)
                costs[number] = min(costs[number], (time.process_time() - used) / (rate * SWEEP_S))
                rates[number] = max(rates[number], rate)
        for pool, rate, cost in zip(pools, rates, costs, strict=True):
            what = {"lanes": len(pool), "bucket": pool[0].buckets[-1]}
            tried.append({**what, "rows_per_second": rate, "cpu_us": 1e6 * cost})
        fastest = max(range(len(pools)), key=rates.__getitem__)
        for number, pool in enumerate(pools):
            if number != fastest:
                _close(pool)
        return pools[fastest]

    backends = best_of([(usual, bucket) for bucket in buckets], [])
    if other:
        backends = best_of([(lanes, backends[0].buckets[-1]) for lanes in other], backends)
    found = {"lanes": len(backends), "bucket": backends[0].buckets[-1], "tried": tried, "backend": described}
    if job.ladder:
        found["ladder"] = _ladder(backends)
    return backends, found


def _ladder(backends: list[Backend]) -> list[tuple[int, float]]:
    """Return the rates of the doublings among the buckets, and of the largest one."""
    from inference_server.backend import network_rate

    buckets = backends[0].buckets
    sizes = [rows for rows in buckets if rows.bit_count() == 1 or rows == buckets[-1]]
    rates = dict.fromkeys(sizes, 0.0)
    for _ in range(_PASSES):
        rates = {rows: max(rate, network_rate(backends, LADDER_S, rows)) for rows, rate in rates.items()}
    return list(rates.items())


def _lane_counts(on_gpu: bool) -> tuple[int, tuple[int, ...]]:
    """Return the usual number of lanes and the others worth trying."""
    if on_gpu:
        devices = len(gpus().devices)
        return devices, (2 * devices,)
    cores = usable_cores()
    # Half of them where they may be hyperthreads or short of memory bandwidth. Not with few cores: there a sweep that
    # runs while one of them is taken away would choose too low a roof.
    return cores, ((cores // 2,) if cores >= _MANY_CORES else ())


def _warm(backends: list[Backend]) -> None:
    from inference_server.backend import network_rate

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
