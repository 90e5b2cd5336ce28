"""A flood of bad messages at the server of a run."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from grove.bench.attacks import KINDS, flood
from grove.bench.soak.look import Observation
from grove.bench.soak.trial import FaultTrial, NotNow, Recovery, in_background
from grove.inference_server import RowSpec

_FLOOD_S, _FLOOD_RATE = 5.0, 1000.0
"""Seconds, messages a second."""


def flood_server(trial: FaultTrial) -> Recovery:
    """Bad messages of all kinds at the server; recovered when it counted them and honest clients go on."""
    endpoint, last = trial.run.endpoint(), trial.watch.last
    if endpoint is None or last is None:
        raise NotNow("the server does not listen yet")
    over = in_background(partial(_flood, endpoint, trial.row_spec))
    before, clients = sum(last.errors.values()), last.live_clients

    def sign(look: Observation | None) -> bool:
        return over(look) and look is not None and sum(look.errors.values()) > before and look.live_clients == clients

    return sign


def _flood(endpoint: str, row_spec: RowSpec) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        apart.submit(flood, endpoint, row_spec, KINDS, _FLOOD_S, per_second=_FLOOD_RATE).result()
