"""What a report says of a soak in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grove.common.numbers import percent
from grove.common.words import plural

LOSSES = ("lost", "duplicates", "wrong_models", "against_rules")
"""Lists of games in the check of soak.json, each of which must be empty."""

Figures = Mapping[str, Any]


def soak_finding(content: Figures) -> str:
    """Return whether the run was sound, what it went through, and what share of its speed it kept."""
    faults, check = content.get("faults") or [], content.get("check") or {}
    injected, recovered = (sum(int(fault[key]) for fault in faults) for key in ("injected", "recovered"))
    said = "Sound" if content.get("sound") else "NOT SOUND"
    lost, twice = len(check.get("lost") or ()), len(check.get("duplicates") or ())
    parts = [f"{said}: {recovered:,} of {plural(injected, 'faults')} recovered"]
    parts.append(f"{plural(int(check.get('games') or 0), 'games')}, {lost:,} lost, {twice:,} twice")
    shares = (content.get("kept") or {}).get("evaluations_kills") or {}
    if shares.get("mean") is not None:
        parts.append(f"{percent(shares['mean'])} of the evaluations/s kept under kills{_interval(shares)}")
    return "; ".join(parts)


def _interval(shares: Figures) -> str:
    low, high = shares.get("low"), shares.get("high")
    return "" if low is None or high is None else f" [{percent(low)}, {percent(high)}]"
