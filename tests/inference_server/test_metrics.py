"""The server's /metrics: true figures, documented names, bounded labels, on this machine only."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from grove.common.errors import SettingError
from grove.inference_server.batching.policy import REASONS
from grove.inference_server.interface.settings import MetricsSettings
from grove.inference_server.interface.stats import Stats
from grove.inference_server.metrics import Exporter, gpu_metrics, server_metrics
from tests.support.command import ROOT, Grove

MLP = ("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off")


def snapshot() -> dict[str, Any]:
    """Return the snapshot of a server that computed three batches in two lanes."""
    stats = Stats(2)
    for lane, rows, bucket, microseconds in ((0, 1, 8, 50), (1, 8, 8, 1000), (0, 200, 256, 3000)):
        stats.batch_done(lane, rows, bucket, microseconds)
    stats.request_done(100)
    stats.error("timeout")
    reasons = dict.fromkeys(REASONS, 0) | {"full": 3}
    gauges = {"clients": 2, "live_clients": 1, "waiting_rows": 5, "largest_batch": 512}
    gauges |= {"recompiles": 0, "uptime_s": 9.5}
    return {**stats.snapshot(), "reasons": reasons, **gauges, "models": {"default": "0123abcd", "best": "4567cdef"}}


def samples(text: str) -> dict[tuple[str, str], float]:
    """Return (name, labels) -> value of a Prometheus text."""
    families = text_string_to_metric_families(text)
    return {
        (one.name, ",".join(f"{k}={v}" for k, v in sorted(one.labels.items()))): one.value
        for family in families
        for one in family.samples
    }


def told(stats: dict[str, Any], gpus: list[dict[str, float | None]]) -> str:
    class Once:
        def collect(self) -> Any:
            yield from server_metrics(stats)
            yield from gpu_metrics(gpus)

    registry = CollectorRegistry()
    registry.register(Once())  # type: ignore[arg-type]
    return generate_latest(registry).decode()


GPU: dict[str, float | None] = {"use": 0.5, "memory_mb": 2.0, "power_w": None, "clock_mhz": 1500.0}


def test_figures_are_those_of_the_snapshot() -> None:
    found = samples(told(snapshot(), [GPU]))
    for name, labels, value in (
        ("grove_rows_total", "", 209),
        ("grove_bucket_rows_total", "", 272),
        ("grove_batches_total", "reason=full", 3),
        ("grove_batches_total", "reason=shutdown", 0),
        ("grove_errors_total", "cause=timeout", 1),
        ("grove_batch_rows_bucket", "le=1.0", 1),
        ("grove_batch_rows_bucket", "le=8.0", 2),
        ("grove_batch_rows_bucket", "le=256.0", 3),
        ("grove_batch_rows_count", "", 3),
        ("grove_batch_rows_sum", "", 209),
        ("grove_compute_seconds_bucket", "le=6.4e-05", 1),
        ("grove_compute_seconds_bucket", "le=0.001024", 2),
        ("grove_compute_seconds_bucket", "le=+Inf", 3),
        ("grove_queue_seconds_count", "", 1),
        ("grove_lane_rows_total", "lane=0", 201),
        ("grove_lanes", "", 2),
        ("grove_waiting_rows", "", 5),
        ("grove_uptime_seconds", "", 9.5),
        ("grove_model_info", "slot=default,version=0123abcd", 1),
        ("grove_model_info", "slot=best,version=4567cdef", 1),
        ("grove_gpu_use_ratio", "gpu=0", 0.5),
        ("grove_gpu_memory_bytes", "gpu=0", 2 * 2**20),
        ("grove_gpu_clock_hertz", "gpu=0", 1.5e9),
    ):
        assert found[name, labels] == value, (name, labels)
    assert found["grove_compute_seconds_sum", ""] == pytest.approx(0.00405, rel=0.13)
    assert ("grove_gpu_power_watts", "gpu=0") not in found
    assert len(found) == len(samples(told({**snapshot(), "clients": 9000}, [GPU])))  # clients are no labels


def test_every_metric_is_documented_and_the_dashboard_asks_for_no_other() -> None:
    names = {name for name, _ in samples(told(snapshot(), [{**GPU, "power_w": 90.0}]))}
    documented = set(re.findall(r"`(grove_\w+)[`{]", (ROOT / "docs" / "reference" / "metrics.md").read_text()))
    plain = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in names}
    assert plain == documented
    dashboard = (ROOT / "docs" / "grafana.json").read_text()
    assert len(json.loads(dashboard)["panels"]) >= 10
    asked = set(re.findall(r"grove_\w+", dashboard))
    assert asked <= names


def test_a_taken_port_and_no_port_are_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SettingError, match="no such free port"):
            Exporter(snapshot, other.getsockname()[1])
    with pytest.raises(SettingError, match=r"0\.\.65535"):
        MetricsSettings(metrics_port=65536)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        assert isinstance(port, int)
        return port


def test_a_run_tells_its_figures(grove: Grove, tmp_path: Path, eventually: Callable[[Callable[[], Any]], Any]) -> None:
    port, out = free_port(), tmp_path / "run"
    play = ("selfplay", "--game", "hex:size=5", "--workers", 2, "--games-per-worker", 8, "--simulations", 16)
    run = grove.start(*play, *MLP, "--games", 1_000_000, "--metrics-port", port, "--out", out)

    def asked() -> dict[tuple[str, str], float]:
        assert run.poll() is None, run.communicate()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                return samples(answer.read().decode())
        except OSError:
            return {}

    first = eventually(lambda: (found := asked()) and found["grove_rows_total", ""] and found)
    assert first["grove_live_clients", ""] <= 2
    eventually(lambda: asked()["grove_rows_total", ""] > first["grove_rows_total", ""])
    run.terminate()
    assert grove.end(run).returncode == 0
    said = grove.refused(*play, *MLP, "--evaluator", "rollout", "--metrics-port", port, "--out", tmp_path / "other")
    assert "the rollout evaluator has no server" in said
