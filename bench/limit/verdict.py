"""What binds self-play, in words, and the one setting to change next: a pure function of measured figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from grove.bench.limit.bounds import (
    Bound,
    LimitFigures,
    largest_part,
    lowest_bound,
    mostly_waiting,
    percent,
    processor_costs,
    with_formed_batches,
)
from grove.bench.limit.knobs import Kind, Knob, choose_knob

FAR_BELOW = 0.7
"""Share of the lowest bound below which that bound alone does not explain the whole; a lowest bound that small batches
bring down to it explains why."""
_IDLE_LANES = 0.3
"""Share of their time from which lanes count as short of rows."""
_SPARE = 0.25
"""Share of the cores that is idle in a machine with room for more work."""
_INFLATED = 1.3
"""Processor time of an evaluation over what its parts need, from which the rest is taken for thrashing."""
_CROWD = 2.0
"""Searching workers and lanes a core from which a machine can be over-subscribed."""


@dataclass(frozen=True)
class Verdict:
    """What binds, and what to do."""

    kind: Kind
    text: str
    """One line."""
    lowest: Bound
    share: float
    """The whole by its lowest bound."""
    knob: Knob

    @property
    def gain(self) -> float:
        """Return how many times the present rate the setting is expected to bring."""
        return self.knob.expected / (self.share * self.lowest.rate)

    def figures(self) -> dict[str, Any]:
        """Return it as plain values, for files."""
        found = {"kind": self.kind, "text": self.text, "lowest": self.lowest.name, "share": self.share}
        return {**found, "knob": asdict(self.knob), "gain": self.gain}


def judge(m: LimitFigures) -> Verdict:
    """Return what binds the whole and the one setting to change next."""
    lowest = lowest_bound(m)
    share = m.whole_rate / lowest.rate
    kind: Kind = largest_part(lowest)
    if share < FAR_BELOW:
        kind = "oversubscribed" if _oversubscribed(m) else "starved" if _starved(m, lowest) else kind
    return Verdict(kind, _text(m, kind, lowest, share), lowest, share, choose_knob(m, kind))


def _oversubscribed(m: LimitFigures) -> bool:
    """Whether the cores are full of more threads than they can run, and of work that no part accounts for."""
    needed = sum(processor_costs(with_formed_batches(m)).values())
    runnable = m.workers + (m.lanes if m.network_on_cores else 0)
    full = m.spare_cores < _SPARE * m.cores
    return runnable > _CROWD * m.cores and full and m.whole_cpu > _INFLATED * needed


def _starved(m: LimitFigures, lowest: Bound) -> bool:
    """Whether the network gets too few rows at a time, or none for much of it, and the wire is not to blame.

    Lanes that are idle while no core is wait for the cores, not for rows.
    """
    idle = m.lane_idle >= _IDLE_LANES and m.spare_cores >= _SPARE * m.cores
    if not mostly_waiting(m):
        return idle and largest_part(lowest) == "network"
    small = lowest_bound(with_formed_batches(m)).rate < FAR_BELOW * lowest.rate
    return (small or idle) and largest_part(lowest) != "wire"


def _text(m: LimitFigures, kind: Kind, lowest: Bound, share: float) -> str:
    if kind == "starved":
        return f"starved: {_hungry(m)}"
    if kind == "oversubscribed":
        return (
            f"CPU over-subscribed: {m.workers} workers and {m.lanes} lanes on {m.cores} cores; an evaluation takes "
            f"{1e6 * m.whole_cpu:.1f} us of a core and its parts need {1e6 * sum(processor_costs(m).values()):.1f}"
        )
    return f"{kind}-bound at {percent(share)} of its limit{_why(lowest)}"


def _hungry(m: LimitFigures) -> str:
    batches = f"batches hold {m.batch_rows:.0f} of {m.max_batch} rows"
    if mostly_waiting(m):
        waiting = max(1, round(m.workers * m.waiting))
        return f"{waiting} of {m.workers} workers wait for answers to too few rows; {batches}"
    searching = m.workers - round(m.workers * m.waiting)
    verb = "waits on its own search" if m.workers == 1 else "wait on their own search"
    return f"{searching} of {m.workers} workers {verb}, the lanes idle {percent(m.lane_idle)} of the time; {batches}"


def _why(lowest: Bound) -> str:
    """Return what takes how much of the time under a bound that parts share."""
    if len(lowest.parts) == 1:
        return f", {lowest.label}"
    part = largest_part(lowest)
    taken = lowest.parts[part] / sum(lowest.parts.values())
    owner = "the cores'" if lowest.name == "cores" else "the workers'"
    return f": {'writing records' if part == 'writer' else f'the {part}'} takes {percent(taken)} of {owner} time"
