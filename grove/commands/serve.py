"""`grove serve`: one network for workers in other terminals, until Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from grove.common.errors import PoolError, SettingError
from grove.game import load_game
from grove.inference_server import InferenceServer
from grove.inference_server.channels.endpoint import check_endpoint, remove_socket
from grove.inference_server.interface import stats as server_stats
from grove.inference_server.interface.client import DEFAULT
from grove.inference_server.interface.network_settings import resolve_network
from grove.inference_server.model_watch import ModelWatch
from grove.run.interrupts import STOPPED, Interrupts
from grove.run.settings import Serve
from grove.workers.pool.server_entry import FAULT_STATUS, READY_S
from grove.workers.selfplay.evaluators import row_spec

REPORT_S = 5.0
"""Seconds between two lines."""
_LOOK_S = 0.1
"""Seconds between two looks for signals and faults."""


def serve(settings: Serve) -> int:
    """Serve until a signal comes, then answer what was taken in; returns the exit status.

    Nobody is let in before all models are there: who comes back after a restart shall find those it knew.
    """
    with Interrupts(drain=True) as interrupts, ExitStack() as stack:
        interrupts.end_now = partial(_end_now, STOPPED)
        from grove.inference_server.backends.backend import ModelFiles, make_backends
        from grove.inference_server.channels.keys import ServerKeys

        keys = ServerKeys(settings.keys) if settings.keys else None
        check_endpoint(settings.bind, keys is not None)
        models = named_models(settings.model_slot)
        game = load_game(settings.game)
        spec, server_settings = row_spec(game), settings.server
        network, why = resolve_network(settings.network, spec)
        backends = make_backends(
            spec, network, server_settings.max_batch, server_settings.lanes, server_settings.deterministic
        )
        server = stack.enter_context(InferenceServer(spec, backends, server_settings))
        if not _is_ready(server, interrupts):
            print("ended", flush=True)
            _end_now(0)  # not in order: a lane may go on compiling for minutes, and there is nothing to lose
        if settings.metrics.metrics_port:
            from grove.inference_server.metrics import Exporter

            stack.enter_context(closing(Exporter(server.stats, settings.metrics.metrics_port)))
        source = ModelFiles(spec, network)
        for name, file in models:
            server.swap(source.load(file), name)
        if settings.models.watch_models:
            stack.enter_context(ModelWatch(server, Path(settings.models.watch_models), source))
        endpoint = server.bind(settings.bind, keys)
        interrupts.end_now = partial(_end_now, STOPPED, endpoint)
        about = {**backends[0].describe(), "network": network.model or network.network, "network_reason": why}
        _say_head(server, game.name, about, endpoint)
        print(f"workers: grove work --connect {endpoint}{_their_keys(settings)}", flush=True)
        try:
            _report(server, interrupts)
            _drain(server)
        except PoolError as error:
            print(f"grove: {error}", file=sys.stderr, flush=True)
            _end_now(FAULT_STATUS, endpoint)  # what hangs in a lane or in the device would hold up an orderly end
    print("ended")
    return 0


def _end_now(status: int, endpoint: str = "") -> NoReturn:
    """End at once, leaving no socket at `endpoint`; may be called by a signal handler."""
    remove_socket(endpoint)
    os._exit(status)


def _is_ready(server: InferenceServer, interrupts: Interrupts) -> bool:
    """Wait until all lanes can compute; False when a signal came first. Raises PoolError."""
    deadline = time.monotonic() + READY_S
    while not server.wait_ready(_LOOK_S):
        if interrupts.count:
            return False
        if time.monotonic() > deadline:
            raise PoolError(f"the lanes were not ready within {READY_S:.0f} s; see `grove doctor`")
    return True


def _drain(server: InferenceServer) -> None:
    """Answer what was taken in. Raises PoolError when the server can compute nothing any more."""
    deadline = time.monotonic() + READY_S
    while not server.drain(_LOOK_S) and time.monotonic() < deadline:
        server.check()


def _say_head(server: InferenceServer, game: str, about: Mapping[str, Any], endpoint: str) -> None:
    for name in ("device", "network", "dtype"):
        print(f"{name}: {about[name]} ({about[f'{name}_reason']})")
    lanes = server.stats()["lane_count"]
    print(f"serving {game}, model {server.model_version}, {lanes} lanes, at {endpoint}", flush=True)
    for name, version in list(server.models().items())[1:]:
        print(f"slot {name}: model {version}")


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


def _report(server: InferenceServer, interrupts: Interrupts) -> None:
    """Print a line every `REPORT_S` seconds in which rows came, and faults at once. Raises PoolError."""
    last, due = server.stats(), time.monotonic() + REPORT_S
    while not interrupts.count:
        time.sleep(_LOOK_S)
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
