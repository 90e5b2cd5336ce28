"""`grove serve`: one network for workers in other terminals, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from common.errors import PoolError, SettingError
from game import load_game
from grove.settings import Serve
from inference_server import InferenceServer
from inference_server import stats as server_stats
from inference_server.model_watch import ModelWatch
from inference_server.network_settings import resolve_network
from inference_server.slots import DEFAULT
from workers.evaluators import row_spec
from workers.host import FAULT_STATUS, READY_S, metrics_at

REPORT_S = 5.0
"""Seconds between two lines."""
_LOOK_S = 0.5
"""Seconds between two looks for faults."""


def serve(settings: Serve) -> int:
    """Serve until SIGINT or SIGTERM, then answer what was taken in; returns the exit status."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    from inference_server.backend import ModelFiles, make_backends
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
        if not server.wait_ready(READY_S):
            raise PoolError(f"the lanes were not ready within {READY_S:.0f} s; see `grove doctor`")
        source = ModelFiles(spec, network, backends)
        for name, file in named_models(settings.model_slot):
            server.swap(source.load(file), name)
        if settings.models.watch_models:
            stack.enter_context(ModelWatch(server, Path(settings.models.watch_models), source))
        about = backends[0].describe()
        print(f"device: {about['device']} ({about['device_reason']})")
        print(f"network: {network.model or network.network} ({why})")
        print(f"dtype: {about['dtype']} ({about['dtype_reason']})")
        print(f"serving {game.name}, model {server.model_version}, {len(backends)} lanes, at {endpoint}", flush=True)
        for name, version in list(server.models().items())[1:]:
            print(f"slot {name}: model {version}")
        print(f"workers: grove work --connect {endpoint}{_their_keys(settings)}", flush=True)
        try:
            _report(server, stop)
        except PoolError as error:
            print(f"grove: {error}", file=sys.stderr, flush=True)
            os._exit(FAULT_STATUS)  # what hangs in a lane or in the device would hold up an orderly end
        server.drain(READY_S)
    print("ended")
    return 0


def _their_keys(settings: Serve) -> str:
    return f" --keys {settings.keys}/clients/NAME" if settings.keys else ""


def named_models(pairs: Sequence[str]) -> list[tuple[str, Path]]:
    """Return names and files of what `--model-slot` gives as NAME=FILE. Raises SettingError."""
    models: dict[str, Path] = {}
    for pair in pairs:
        name, given, file = pair.partition("=")
        if not given or not name.isidentifier() or not file:
            remedy = "write e.g. --model-slot best=net.safetensors"
            raise SettingError.of("model-slot", pair, "it must read NAME=FILE, NAME a word", remedy)
        if name == DEFAULT or name in models:
            raise SettingError.of("model-slot", pair, f"there is a slot {name} already", "choose another name")
        models[name] = Path(file)
    return list(models.items())


def _report(server: InferenceServer, stop: threading.Event) -> None:
    """Print a line every `REPORT_S` seconds in which rows came, and faults at once. Raises PoolError."""
    last, due = server.stats(), time.monotonic() + REPORT_S
    while not stop.wait(_LOOK_S):
        for problem in server.new_problems():
            print(problem, flush=True)
        server.check()
        if time.monotonic() < due:
            continue
        now, due = server.stats(), time.monotonic() + REPORT_S
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
