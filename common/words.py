"""Counts in words."""

from __future__ import annotations


def singular(unit: str) -> str:
    """Return the singular of a unit: `match` of `matches`."""
    return unit.removesuffix("es") if unit.endswith("ches") else unit.removesuffix("s")


def plural(count: int, units: str) -> str:
    """Return a count with its unit: `1 match`, `1,234 matches`."""
    return f"{count:,} {singular(units) if count == 1 else units}"
