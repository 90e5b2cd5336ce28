"""What is left of a soak: soak.json, a table of the faults, and what the run lost and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

from rich.console import Console

from grove.bench.core.report import form, print_lines
from grove.bench.soak.faults import FAULTS, KILLS
from grove.bench.soak.memory import LEAST_S, WARM_S, Sample, Slope, slope, student
from grove.bench.soak.soak import KILL, OTHER, REST, Phase, SoakAsked, Soaked
from grove.common import machine

AIM = 0.8
"""Share of the undisturbed games/min that a run shall keep with a kill every ten seconds."""
_HEADS = ("fault", "injected", "recovered", "median s", "worst s", "measured to")
_SHOWN = 5


def fault_rows(found: Soaked) -> list[dict[str, Any]]:
    """Return one row for each kind of fault that was injected or could not be."""
    rows = []
    for name, fault in FAULTS.items():
        mine = [one for one in found.injected if one.name == name]
        times = sorted(one.recovered_s for one in mine if one.recovered_s is not None)
        if mine or name in found.skipped:
            rows.append(
                {
                    "name": name,
                    "does": fault.does,
                    "injected": len(mine),
                    "recovered": len(times),
                    "median_s": median(times) if times else None,
                    "worst_s": times[-1] if times else None,
                    "measured_to": fault.recovered_at,
                    "skipped": found.skipped.get(name, ""),
                }
            )
    return rows


def kept_shares(phases: Sequence[Phase], kind: str, what: str) -> list[float]:
    """Return, for each phase of `kind`, its rate by that of the rests beside it; `what`: games or evaluations."""
    rates = [getattr(phase, what) / phase.seconds for phase in phases]
    shares = []
    for place, phase in enumerate(phases):
        beside = [rates[p] for p in (place - 1, place + 1) if 0 <= p < len(phases) and phases[p].kind == REST]
        if phase.kind == kind and beside and mean(beside):
            shares.append(rates[place] / mean(beside))
    return shares


def evaluations_a_game(phases: Sequence[Phase], kind: str) -> float | None:
    """Return the evaluations by the finished games of all phases of `kind`; None without any.

    What is more than at rest went into games that were ended and begun again: on average half of those in progress.
    """
    mine = [phase for phase in phases if phase.kind == kind]
    games = sum(phase.games for phase in mine)
    return sum(phase.evaluations for phase in mine) / games if games else None


class Kept(NamedTuple):
    """The mean share that was kept, with its 95 % interval; without one for a single phase."""

    mean: float
    low: float | None
    high: float | None
    phases: int

    @classmethod
    def of(cls, shares: Sequence[float]) -> Kept:
        """Return what the shares of one phase at least come to; phases differ by which faults they drew."""
        middle, freedom = mean(shares), len(shares) - 1
        if not freedom:
            return cls(middle, None, None, 1)
        error = student(freedom) * stdev(shares) / len(shares) ** 0.5
        return cls(middle, middle - error, middle + error, len(shares))

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.0%} (one phase, no interval)"
        return f"{self.mean:.0%} [{self.low:.0%}, {self.high:.0%}] over {self.phases} phases"


def write_soak(asked: SoakAsked, found: Soaked, settings: dict[str, Any], command: Sequence[str]) -> Path:
    """Write soak.json below `asked.out` and return its path."""
    content = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(command),
        **machine.provenance(),
        "settings": settings,
        "sound": found.sound,
        "games": found.games,
        "starts": found.starts,
        "faults": fault_rows(found),
        "kept": {
            f"{what}_{kind}": _kept_figures(kept_shares(found.phases, kind, what))
            for kind in (KILL, OTHER)
            for what in ("games", "evaluations")
        },
        "evaluations_a_game": {kind: evaluations_a_game(found.phases, kind) for kind in (REST, KILL, OTHER)},
        "memory": {role: _plain(slope(lives)) for role, lives in found.memory.items()},
        "lives": {role: [_life(life) for life in lives] for role, lives in found.memory.items()},
        "check": asdict(found.check),
        "changed_logs": found.changed,
        "left_behind": found.left_behind,
        "ended_early": found.ended_early,
        "phases": [asdict(phase) for phase in found.phases],
        "injected": [asdict(one) for one in found.injected],
    }
    path = asked.out / "soak.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def print_soak(asked: SoakAsked, found: Soaked, console: Console) -> None:
    """Print the table of faults, then what was lost and kept."""
    print_lines(_HEADS, [_texts(row) for row in fault_rows(found)], console)
    console.print()
    for line in (*_losses(found), *_kept(asked, found), *_memory(found)):
        console.print(line, soft_wrap=True)


def _texts(row: dict[str, Any]) -> tuple[str, ...]:
    times = form(row["median_s"], "{:.2f}"), form(row["worst_s"], "{:.2f}")
    return (row["does"], str(row["injected"]), str(row["recovered"]), *times, row["skipped"] or row["measured_to"])


def _losses(found: Soaked) -> Iterator[str]:
    check = found.check
    yield f"{found.games:,} games asked for, {check.games:,} on disk, {found.starts} starts of the command"
    recovered = len(found.injected) - len(found.unrecovered)
    yield f"faults injected {len(found.injected)}, recovered {recovered}"
    counted = (
        ("games lost", check.lost),
        ("duplicates", check.duplicates),
        ("wrong versions", check.wrong_models),
        ("games against the rules", check.against_rules),
        ("logs changed", found.changed),
        ("left behind", found.left_behind),
        ("ended by itself", found.ended_early),
        ("not recovered", [f"{one.name}: {one.why}" for one in found.unrecovered]),
    )
    yield ", ".join(f"{name} {len(items)}" for name, items in counted)
    for name, items in counted:
        for item in items[:_SHOWN]:
            yield f"  {name}: {item}"
    models = ", ".join(f"{moves:,} by {model}" for model, moves in check.moves_by_model.items())
    yield f"moves: {models}; {check.torn} lines torn by kills, their games played again"


def _kept(asked: SoakAsked, found: Soaked) -> Iterator[str]:
    kills = sum(one.name in KILLS for one in found.injected)
    for kind, text in ((KILL, f"a kill each {asked.every_s:g} s ({kills} of them)"), (OTHER, "the other faults")):
        games, evaluations = (kept_shares(found.phases, kind, what) for what in ("games", "evaluations"))
        if games and evaluations and (kills or kind != KILL):
            aim = f"; the aim is {AIM:.0%}" if kind == KILL else ""
            yield f"with {text}: {Kept.of(games)} of the undisturbed games/min{aim}"
            yield f"with {text}: {Kept.of(evaluations)} of the undisturbed evaluations/s"
            yield f"with {text}: {_a_game(found, kind)} evaluations a finished game, {_a_game(found, REST)} undisturbed"


def _a_game(found: Soaked, kind: str) -> str:
    return form(evaluations_a_game(found.phases, kind), "{:.0f}")


def _kept_figures(shares: Sequence[float]) -> dict[str, Any]:
    return {"shares": shares, **(Kept.of(shares)._asdict() if shares else {})}


def _memory(found: Soaked) -> Iterator[str]:
    for role, lives in found.memory.items():
        of_lives = slope(lives)
        if of_lives is None:
            yield f"memory of {role}: too few of its {len(lives)} lives lasted {LEAST_S:.0f} s to say"
        else:
            growth = f"{of_lives.mb_per_hour:+.1f} MB/hour [{of_lives.low:+.1f}, {of_lives.high:+.1f}]"
            told = f"{of_lives.lives} of its {len(lives)} lives, {of_lives.seconds:.0f} s"
            yield f"memory of {role}: {growth} over {told}, the first minute of each left out"


def _life(life: Sequence[Sample]) -> dict[str, float | None]:
    """Return how long a process lived, and its MB after the warm-up (None: it was over before) and at the end."""
    began = life[0][0]
    warm = next((mb for t, mb in life if t - began >= WARM_S), None)
    return {"seconds": life[-1][0] - began, "warm_mb": warm, "last_mb": life[-1][1]}


def _plain(of_lives: Slope | None) -> dict[str, Any] | None:
    return None if of_lives is None else asdict(of_lives)
