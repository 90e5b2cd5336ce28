"""`grove serve`: one network for workers in other terminals, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack

from game import load_game
from grove.settings import Serve
from inference_server import InferenceServer
from inference_server import stats as server_stats
from inference_server.network_settings import resolve_network
from workers.evaluators import row_spec
from workers.host import READY_S, metrics_at

REPORT_S = 5.0
"""Seconds between two lines."""


def serve(settings: Serve) -> int:
    """Serve until SIGINT or SIGTERM, then answer what was taken in; returns the exit status."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    from inference_server.backend import make_backends
    from inference_server.keys import ServerKeys

    keys = ServerKeys(settings.keys) if settings.keys else None
    game = load_game(settings.game)
    spec, server_settings = row_spec(game), settings.server
    network, why = resolve_network(settings.network, spec)
    backends = make_backends(
        spec, network, server_settings.max_batch, server_settings.lanes, server_settings.deterministic
    )
    with InferenceServer(spec, backends, server_settings) as server, ExitStack() as stack:
        if settings.metrics.metrics_port:
            stack.enter_context(metrics_at(server, settings.metrics.metrics_port))
        endpoint = server.bind(settings.bind, keys)
        server.wait_ready(READY_S)
        about = backends[0].describe()
        print(f"device: {about['device']} ({about['device_reason']})")
        print(f"network: {network.model or network.network} ({why})")
        print(f"dtype: {about['dtype']} ({about['dtype_reason']})")
        print(f"serving {game.name}, model {server.model_version}, {len(backends)} lanes, at {endpoint}", flush=True)
        print(f"workers: grove work --connect {endpoint}{_their_keys(settings)}", flush=True)
        _report(server, stop)
        server.drain(READY_S)
    print("ended")
    return 0


def _their_keys(settings: Serve) -> str:
    return f" --keys {settings.keys}/clients/NAME" if settings.keys else ""


def _report(server: InferenceServer, stop: threading.Event) -> None:
    """Print a line every `REPORT_S` seconds in which rows came."""
    last = server.stats()
    while not stop.wait(REPORT_S):
        now = server.stats()
        part = server_stats.difference(now, last)
        last = now
        if part["batches"]:
            figures = server_stats.summary(part)
            rate = part["rows"] / max(part["uptime_s"], 1e-9)
            reasons = ", ".join(f"{reason} {count}" for reason, count in part["reasons"].items() if count)
            print(
                f"{rate:,.0f} evaluations/s  {figures['mean_batch_rows']:.0f} rows/batch  fill {figures['fill']:.0%}  "
                f"{now['clients']} clients  sent: {reasons}",
                flush=True,
            )
