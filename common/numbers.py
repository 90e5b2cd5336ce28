"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping


def amount(value: float | None) -> str:
    """Return a count or rate: thousands separated, one decimal below 100, "-" for None."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.1f}" if abs(value) < 100 and value != int(value) else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """Return a share of 1 as per cent: 0 decimals from 10 % on, "-" for None."""
    if share is None or not math.isfinite(share):
        return "-"
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def duration(seconds: float | None) -> str:
    """Return seconds as 0:42, 12:05 or 3:20:00, "-" for None."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def milliseconds(value: float | None) -> str:
    """Return milliseconds with one decimal below 100, "-" for None."""
    return "-" if value is None else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def reason_shares(reasons: Mapping[str, int], most: int = 4) -> list[tuple[str, str]]:
    """Return the commonest dispatch reasons and their shares; the rarest are summed up when there are too many."""
    counts = sorted(reasons.items(), key=lambda pair: -pair[1])
    total = sum(count for _, count in counts)
    if not total:
        return [("sent when", "-")]
    if len(counts) > most:
        counts = [*counts[: most - 1], ("other", sum(count for _, count in counts[most - 1 :]))]
    return [(f"sent: {reason}", percent(count / total)) for reason, count in counts]
