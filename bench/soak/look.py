"""How a run does while it is harmed: the counters its server tells at /metrics, read several times a second."""

from __future__ import annotations

import http.client
import re
import time
import urllib.request
from collections import deque
from dataclasses import dataclass

_TIMEOUT_S = 0.5
"""Longest wait for the server; a stopped one answers nobody."""
_MODEL = re.compile(r'^grove_model_info\{.*version="([0-9a-f]*)"')
_ERRORS = re.compile(r'^grove_errors_total\{cause="([^"]*)"\}')
_KEPT = 4000
"""Looks kept: at 20 a second more than three minutes."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the server told at one moment."""

    time: float
    """Monotonic seconds."""
    uptime_s: float
    """Of this life of the server."""
    rows: int
    """Rows computed since its start."""
    batches: int
    live_clients: int
    errors: dict[str, int]
    """Faults that it survived, by cause."""
    model: str
    """Content hash of the served model."""


class Watch:
    """The looks at one run, and what they sum up to over all lives of its server."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._looks: deque[Observation] = deque(maxlen=_KEPT)
        self.evaluations = 0
        """Rows computed in all; what a life computed after the last look at it is missing."""

    @property
    def last(self) -> Observation | None:
        """The latest look at a living server."""
        return self._looks[-1] if self._looks else None

    def look(self) -> Observation | None:
        """Look now; None while there is no server that answers."""
        text = _fetch(self._url)
        if text is None:
            return None
        look = read_metrics(text, time.monotonic())
        self.add(look)
        return look

    def add(self, look: Observation) -> None:
        """Take a look into account."""
        same = self.last is not None and look.uptime_s >= self.last.uptime_s
        self.evaluations += look.rows - (self.last.rows if same and self.last else 0)
        self._looks.append(look)

    def batch_rows(self, seconds: float) -> float:
        """Return the mean rows of a batch over the last `seconds` of the server's present life; 0 without batches."""
        last = self.last
        if last is None:
            return 0.0
        first = last
        for look in reversed(self._looks):
            if look.uptime_s > last.uptime_s or last.time - look.time > seconds:
                break
            first = look
        batches = last.batches - first.batches
        return (last.rows - first.rows) / batches if batches else 0.0


def read_metrics(text: str, now: float) -> Observation:
    """Return what a text of /metrics says; what it does not name counts as 0."""
    sums: dict[str, float] = {}
    errors: dict[str, int] = {}
    model = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, value = line.rpartition(" ")
        bare = name.partition("{")[0]
        sums[bare] = sums.get(bare, 0.0) + float(value)
        if found := _MODEL.match(line):
            model = model or found[1]
        if found := _ERRORS.match(line):
            errors[found[1]] = int(float(value))
    return Observation(
        time=now,
        uptime_s=sums.get("grove_uptime_seconds", 0.0),
        rows=int(sums.get("grove_rows_total", 0)),
        batches=int(sums.get("grove_batches_total", 0)),
        live_clients=int(sums.get("grove_live_clients", 0)),
        errors=errors,
        model=model,
    )


def _fetch(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            text: bytes = answer.read()
            return text.decode()
    except (OSError, http.client.HTTPException):
        return None
