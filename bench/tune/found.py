"""What a tuning is asked and what it finds: trials, the last measurement, and which settings to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from grove.bench.core.estimate import GameCost, Played, game_cost
from grove.bench.core.rounds import Round
from grove.bench.core.slices import Slice
from grove.bench.limit.limit import LimitAsked
from grove.bench.limit.verdict import Verdict
from grove.bench.tune.gain import Gain, rate, ratio
from grove.bench.tune.space import Choice

DEFAULT = "default"
"""Name of the default's pool in the last measurement."""

State = Literal["measured", "cut", "skipped", "failed"]


@dataclass(frozen=True, kw_only=True)
class TuneAsked:
    """What the user asked to tune; resolved settings."""

    load: LimitAsked
    """The load and the default; `seconds` is the whole budget, starts included."""
    knobs: tuple[str, ...]
    probe_limit: float
    """Relative change of the burn probe from which a round of the last measurement is dropped."""


@dataclass(kw_only=True)
class Trial:
    """One way to run and what was found of it."""

    number: int
    why: str
    """Why it was tried."""
    choice: Choice | None = None
    """None when it could not even be sized."""
    state: State = "measured"
    note: str = ""
    """Why it was skipped or failed."""
    pairs: list[tuple[Slice, Slice]] = field(default_factory=list)
    """Slices of its pool, each with one of the default's beside it."""
    played: Played | None = None
    """What its pool did in its whole life, the start included."""
    expected: float | None = None
    """The gain that the limit of the default predicted; None where it did not say."""
    start_s: float = 0.0
    """Seconds until its pool was warm and its cache filled."""
    seconds: float = 0.0
    """Seconds of the whole trial."""

    @property
    def gain(self) -> float:
        """Simulations per second by the default's over all its pairs; 0 without any."""
        mine, base = zip(*self.pairs, strict=True) if self.pairs else ((), ())
        return ratio(mine, base)

    @property
    def ratios(self) -> list[float]:
        """The same pair by pair: its spread."""
        return [ratio([mine], [base]) for mine, base in self.pairs]


@dataclass(kw_only=True)
class Tuned:
    """What a tuning found."""

    default: Choice
    network: Mapping[str, Any]
    """What the network alone gave: see `Peak.found`."""
    limit: Verdict | None = None
    """What binds the default; None where the budget was too short to measure it."""
    trials: list[Trial] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    """The last measurement: modes `DEFAULT` and those of `finalists`."""
    finalists: dict[str, Trial] = field(default_factory=dict)
    gains: dict[str, Gain] = field(default_factory=dict)
    """Of the finalists."""
    played: list[Played] = field(default_factory=list)
    """What the default's pool and the finalists' did in their whole lives."""
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def best(self) -> Trial | None:
        """The best finalist, or the best trial where none was measured again; None when none was ahead."""
        if self.gains:
            return self.finalists[max(self.gains, key=lambda name: self.gains[name].median)]
        return next(iter(self.ahead()), None)

    @property
    def gain(self) -> Gain | None:
        """The gain of the best; None when it was not measured again."""
        return max(self.gains.values(), key=lambda gain: gain.median, default=None)

    @property
    def winner(self) -> Choice:
        """The settings to use: the best where its gain is no chance, else the default's."""
        best, gain = self.best, self.gain
        return best.choice if best and best.choice and gain and gain.better else self.default

    def ahead(self) -> Sequence[Trial]:
        """Return the trials that were ahead of the default, the best first; those that were cut last."""
        found = [trial for trial in self.trials if trial.gain > 1]
        return sorted(found, key=lambda trial: (trial.state != "measured", -trial.gain))

    def game_cost(self) -> GameCost | None:
        """Return what a finished game costs, over everything that was played."""
        return game_cost([*self.played, *(trial.played for trial in self.trials if trial.played)])

    def default_rate(self) -> float:
        """Return the default's simulations per second, of the last measurement if there is one."""
        again = [done.slices[DEFAULT] for done in self.rounds]
        beside = [base for trial in self.trials for _, base in trial.pairs]
        return rate(again or beside)


class Screen(Protocol):
    """Shows how a tuning goes."""

    def say(self, text: str) -> None:
        """Show one line."""
        ...

    def begins(self, trial: Trial, left_s: float) -> None:
        """Show what is tried now; `left_s` seconds are left for trials."""
        ...

    def ended(self, trial: Trial) -> None:
        """Show what a trial found."""
        ...
