"""Arithmetic on counters: dictionaries of numbers, lists and further dictionaries that only grow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

GAUGES = ("peak_rss_mb", "in_progress")
"""Workers' keys that are states, not counts."""


def difference(later: Mapping[str, float], earlier: Mapping[str, float]) -> dict[str, float]:
    """Return the workers' counts of an interval; gauges keep the later value."""
    return {name: value - (0 if name in GAUGES else earlier.get(name, 0)) for name, value in later.items()}


def total(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of counters of several intervals, key by key; texts keep the last value, gauges the largest."""
    out: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            out[name] = max(out.get(name, 0), value) if name in GAUGES else _plus(out.get(name), value)
    return out


def _plus(former: Any, value: Any) -> Any:
    if former is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {key: _plus(former.get(key), value.get(key, 0)) for key in {**former, **value}}
    if isinstance(value, list):
        return [_plus(a, b) for a, b in zip(former, value, strict=True)]
    return former + value
