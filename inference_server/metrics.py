"""The server's counters as Prometheus text at http://127.0.0.1:PORT/metrics (docs/reference/metrics.md).

Imported only where such a port is asked for. Labels come from bounded sets: dispatch reasons, causes of faults, lanes,
model slots (64 at most), GPUs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from grove.common.errors import SettingError
from grove.common.usage import GpuUse
from grove.inference_server.channels.endpoint import is_own_host
from grove.inference_server.interface.stats import bin_microseconds

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_TIME_BOUNDS = range(6, 25)
"""Upper bounds of the time histograms, as powers of two of microseconds: 64 us to 16.8 s."""
_COUNTERS = {
    "requests": "Requests answered.",
    "rows": "Rows computed by the network: evaluations, without padding.",
    "bucket_rows": "Rows of the buckets that were computed, padding included.",
    "failed_rows": "Rows that could not be computed, or whose outputs were not finite.",
    "resends": "Requests that came again.",
    "recompiles": "Calls that no compiled code fitted; each ran uncompiled.",
}
_GAUGES = {
    "clients": ("clients", "Clients connected."),
    "live_clients": ("live_clients", "Clients that count for the rule `all_blocked`."),
    "waiting_rows": ("waiting_rows", "Rows waiting for a lane."),
    "largest_batch": ("largest_batch", "Rows of the largest batch in use; halved when the device is out of memory."),
    "lane_count": ("lanes", "Lanes."),
    "uptime_s": ("uptime_seconds", "Seconds since the server started."),
}
_LANE = {
    "batches": ("grove_lane_batches", "Batches computed by a lane."),
    "rows": ("grove_lane_rows", "Rows computed by a lane."),
    "busy_s": ("grove_lane_busy_seconds", "Seconds a lane computed."),
    "idle_s": ("grove_lane_idle_seconds", "Seconds a lane had nothing to compute."),
}
_GPU = {
    "use": ("grove_gpu_use_ratio", 1.0, "Share of the time that the GPU was busy, 0 to 1."),
    "memory_mb": ("grove_gpu_memory_bytes", 2.0**20, "Memory taken on the GPU, by anyone."),
    "power_w": ("grove_gpu_power_watts", 1.0, "Power drawn."),
    "clock_mhz": ("grove_gpu_clock_hertz", 1e6, "Clock of the multiprocessors."),
}


class Exporter:
    """Answers at /metrics until it is closed, from a thread of its own."""

    def __init__(self, stats: Callable[[], dict[str, Any]], port: int) -> None:
        """Listen on 127.0.0.1:`port`; `stats` gives the snapshot of `InferenceServer.stats`, asked at every scrape.

        Raises SettingError when the port is taken.
        """
        self._gpus = GpuUse()
        registry = CollectorRegistry()
        registry.register(_Collector(stats, self._gpus))
        ProcessCollector(registry=registry)
        try:
            self._server = make_server(
                "127.0.0.1", port, _for_own_host(make_wsgi_app(registry)), ThreadingWSGIServer, _SilentHandler
            )
        except OSError as error:
            self._gpus.close()
            why = f"127.0.0.1 has no such free port ({error.strerror})"
            raise SettingError.of("metrics-port", port, why, "choose another") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._gpus.close()


class _SilentHandler(WSGIRequestHandler):
    timeout = 10.0  # seconds for a request: half a one holds its thread no longer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""


def _for_own_host(inner: WSGIApplication) -> WSGIApplication:
    """Refuse requests that were meant for another host: a web page that rebinds its name must not read figures."""

    def outer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if is_own_host(environ.get("HTTP_HOST", "")):
            return inner(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"These figures are for this machine; ask for 127.0.0.1 or localhost.\n"]

    return outer


class _Collector(Collector):
    def __init__(self, stats: Callable[[], dict[str, Any]], gpus: GpuUse) -> None:
        self._stats, self._gpus = stats, gpus

    def collect(self) -> Iterator[Metric]:
        yield from server_metrics(self._stats())
        yield from gpu_metrics(self._gpus.look() or [])


def server_metrics(stats: dict[str, Any]) -> Iterator[Metric]:
    """Return the metrics of a snapshot."""
    for key, text in _COUNTERS.items():
        yield CounterMetricFamily(f"grove_{key}", text, value=stats[key])
    for key, (name, text) in _GAUGES.items():
        yield GaugeMetricFamily(f"grove_{name}", text, value=stats[key])
    yield _labelled("grove_batches", "Batches computed or about to be, by why they left.", "reason", stats["reasons"])
    yield _labelled("grove_errors", "Faults that were survived, by cause.", "cause", stats["errors"])
    for key, (name, text) in _LANE.items():
        values = {str(index): lane[key] for index, lane in enumerate(stats["lanes"])}
        yield _labelled(name, text, "lane", values)
    sizes = list(accumulate(stats["batch_sizes"]))  # of at most 1, 2, 4, ... rows; the last bin has no upper bound
    bounds = [float(2**k) for k in range(len(sizes) - 1)]
    yield _histogram("grove_batch_rows", "Rows of a batch.", bounds, sizes[:-1], (sizes[-1], stats["rows"]))
    for key, text in (("queue", "Seconds from a request's arrival to its lane."), ("compute", "Seconds of a batch.")):
        counts = stats[f"{key}_us"]
        total = sum(count * bin_microseconds(number) for number, count in enumerate(counts)) / 1e6
        bounds = [2**power / 1e6 for power in _TIME_BOUNDS]
        below = [sum(counts[: 4 * (power - 1)]) for power in _TIME_BOUNDS]  # four bins are a doubling
        yield _histogram(f"grove_{key}_seconds", text, bounds, below, (sum(counts), total))
    models = InfoMetricFamily("grove_model", "Content hash of the model that serves a slot.", labels=["slot"])
    for name, version in stats["models"].items():
        models.add_metric([name], {"version": version})
    yield models


def gpu_metrics(gpus: Sequence[dict[str, float | None]]) -> Iterator[Metric]:
    """Return the metrics of the GPUs; what a GPU does not tell is left out."""
    for key, (name, factor, text) in _GPU.items():
        family = GaugeMetricFamily(name, text, labels=["gpu"])
        for index, gpu in enumerate(gpus):
            value = gpu[key]
            if value is not None:
                family.add_metric([str(index)], factor * value)
        yield family


def _labelled(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, bounds: Sequence[float], below: Sequence[int], whole: tuple[int, float]) -> Metric:
    """Return a histogram of which `below[k]` lie under `bounds[k]`; `whole` is the count and sum of all."""
    buckets = [(str(bound), float(count)) for bound, count in zip(bounds, below, strict=True)]
    return HistogramMetricFamily(name, text, buckets=[*buckets, ("+Inf", float(whole[0]))], sum_value=whole[1])
