"""What a visit of a point found: plain values, one line of visits.jsonl each, so that a sweep can go on later."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from grove.bench.core.probe import Probe
from grove.bench.core.rounds import Round
from grove.bench.core.slices import Slice
from grove.bench.sweep.points import Point

MINE = "point"
"""Name of the only mode in the rounds of a visit."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One visit: a pool started, warmed, measured in a few slices and stopped."""

    point: Point
    number: int
    """0 for the first visit of the point."""
    time: str
    """When it ended, ISO 8601: the same for those that took turns at their slices."""
    failure: str = ""
    """Why nothing was measured; empty when it was. All that follows is then empty."""
    start_s: float = 0.0
    """Seconds until the pool was warm and quiet."""
    slices: list[dict[str, Any]] = field(default_factory=list)
    """`grove.bench.core.slices.Slice` as plain values."""
    peak: list[tuple[float, float]] = field(default_factory=list)
    """Rows per second of the network alone before and after, and the processor seconds of a row."""
    probes: list[tuple[float, float, int]] = field(default_factory=list)
    """Burn probes before and after."""
    pool: dict[str, Any] = field(default_factory=dict)
    """Sizes, device, memory, proof of search: what does not add up over slices."""
    gpus: dict[str, float | None] = field(default_factory=dict)
    """What GPUs did meanwhile: see `grove.bench.core.gpu_watch`."""
    others_cpu: float | None = None
    """Processors that other programs used meanwhile; None where that is not known."""

    def line(self) -> bytes:
        """Return the visit as a line of JSON, its newline included."""
        return json.dumps({**asdict(self), "point": self.point._asdict()}, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def of_line(cls, line: str) -> Self:
        """Return the visit of a line. Raises ValueError, KeyError or TypeError when it holds none."""
        values = json.loads(line)
        return cls(**{**values, "point": Point(**values["point"])})

    def rounds(self) -> list[Round]:
        """Return the slices as rounds of one mode, `MINE`, each with the probes and the mean peak of this visit."""
        before, after = (Probe(*probe) for probe in self.probes)
        rate, cpu = (sum(part[i] for part in self.peak) / max(len(self.peak), 1) for i in (0, 1))
        others = self.others_cpu
        return [Round((before, after), rate, {MINE: Slice(**part)}, cpu, others_cpu=others) for part in self.slices]

    def paired(self, other: Visit) -> list[Round]:
        """Return the rounds with the slices of `other`, which took turns with these, under the name of its mode."""
        pairs = zip(self.rounds(), other.slices, strict=True)
        return [replace(done, slices=done.slices | {other.point.mode: Slice(**part)}) for done, part in pairs]


def read_visits(path: Path) -> list[Visit]:
    """Return the last visit of every point and number in the file; none when there is no such file.

    Lines that a killed writer tore are left out: their visits are made again.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(Visit.of_line(line))
        except (ValueError, KeyError, TypeError):
            continue
    return latest(found)


def latest(visits: Iterable[Visit]) -> list[Visit]:
    """Return the last visit of every point and number, in the order of the first ones."""
    return list({(visit.point.key, visit.number): visit for visit in visits}.values())
