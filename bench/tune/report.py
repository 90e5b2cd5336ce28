"""What is left of a tuning: results.json, run.json, trials.csv, chart.png, a table and the finding in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from grove.bench.core.estimate import GameCost
from grove.bench.core.report import busy_warning, form, print_lines
from grove.bench.core.results import raw_rounds
from grove.bench.core.rounds import mean_others
from grove.bench.sweep.rows import to_csv
from grove.bench.tune.found import Trial, TuneAsked, Tuned
from grove.bench.tune.gain import LEAST_QUIET, rate
from grove.bench.tune.screen import verdict
from grove.bench.tune.space import Choice
from grove.common import machine
from grove.workers.pool import figures
from grove.workers.pool.figures import search_text

_SHOWN = 10
"""Trials in the printed table: the best ones."""
NOT_QUIET = f"fewer than {LEAST_QUIET} rounds were quiet by the burn probe"
Row = dict[str, Any]


def finding(tuned: Tuned) -> str:
    """Return in one line what the tuning found."""
    best, gain = tuned.best, tuned.gain
    count = sum(bool(trial.pairs) for trial in tuned.trials)
    tried = f"{count} setting{'s' * (count != 1)} tried"
    if gain and gain.better:
        return f"Tuned settings play at {gain} ({tried})"
    if gain and gain.busy:
        return f"Nothing is concluded: {NOT_QUIET}; the best of {tried} came to {gain}"
    if gain:
        return f"The default is as good: the best of {tried} came to {gain}"
    if tuned.interrupted:
        ahead = (
            f"the best so far was at {best.gain:.2f}x the default in a short trial" if best else "nothing was ahead yet"
        )
        return f"Stopped early: {ahead} ({tried})"
    return f"The default is as good: none of {tried} was ahead of it"


def rows(tuned: Tuned, units: figures.Units) -> list[Row]:
    """Return one row a trial; rates per minute follow from simulations and what a finished game takes of them."""
    cost = tuned.game_cost()
    return [_row(trial, cost, units) for trial in tuned.trials]


def _row(trial: Trial, cost: GameCost | None, units: figures.Units) -> Row:
    mine = [part for part, _ in trial.pairs]
    seconds = sum(part.seconds for part in mine)
    done = {name: sum(part.workers.get(name, 0) for part in mine) for name in _COUNTS}
    speed = rate(mine) if mine else None
    return {
        "trial": trial.number,
        "why": trial.why,
        "state": trial.state,
        **(trial.choice._asdict() if trial.choice else dict.fromkeys(Choice._fields)),
        "expected_by_default": trial.expected,
        "by_default": trial.gain if mine else None,
        "by_default_low": min(trial.ratios, default=None),
        "by_default_high": max(trial.ratios, default=None),
        "simulations_per_second": speed,
        **per_minute(speed, cost, units),
        "evaluations_per_second": done["evaluations"] / seconds if mine else None,
        "cache_hit_rate": done["cache_hits"] / done["cache_lookups"] if done["cache_lookups"] else None,
        "cpu_us_per_simulation": sum(part.cpu_seconds for part in mine) / done["simulations"] * 1e6 if speed else None,
        "start_s": trial.start_s,
        "seconds": trial.seconds,
        "note": trial.note or None,
    }


_COUNTS = ("evaluations", "simulations", "cache_hits", "cache_lookups")


def per_minute(speed: float | None, cost: GameCost | None, units: figures.Units) -> Row:
    """Return games per minute, in all units of the game, at `speed` simulations/s and the `cost` of a game."""
    games = 60 * speed / cost.simulations if speed and cost else None
    return {f"{unit}_per_minute": games * count if games else None for unit, count in units.items()}


def write_tuned(asked: TuneAsked, tuned: Tuned, about: Row, command: Sequence[str]) -> list[Path]:
    """Write results.json, run.json, trials.csv and chart.png below the folder; return their paths.

    `about`: `settings` and `preset` for the files, `units` of the game.
    """
    from grove.bench.tune.chart import draw_tuned  # matplotlib takes half a second to import

    out, load, units = asked.load.out, asked.load, about["units"]
    head = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(command),
        **machine.provenance(),
        "settings": about["settings"],
        "network_alone": tuned.network,
        "clock": "a slice runs from the order to go on until the last worker is at rest; start and warm-up left out",
        "rounds": raw_rounds(tuned.rounds, asked.probe_limit) if tuned.rounds else [],
    }
    table = rows(tuned, units)
    here = machine.describe()
    what = f"{load.game_spec}, {load.network.model or load.network.network}, {search_text(load.search)}"
    _write(out / "run.json", json.dumps(head, indent=2, default=str) + "\n")
    _write(out / "results.json", json.dumps(_results(tuned, about) | {"trials": table}, indent=2, default=str) + "\n")
    _write(out / "trials.csv", to_csv(table))
    draw_tuned(tuned, out / "chart.png", title=finding(tuned),
               subtitle=f"{what}; {here['cpu']}, {here['cores']} cores; {tuned.seconds / 60:.1f} minutes")  # fmt: skip
    return [out / name for name in ("results.json", "run.json", "trials.csv", "chart.png")]


def _results(tuned: Tuned, about: Row) -> Row:
    cost, speed, best, gain = tuned.game_cost(), tuned.default_rate(), tuned.best, tuned.gain
    return {
        "finding": finding(tuned),
        "limit": tuned.limit.figures() if tuned.limit else None,
        "default": tuned.default._asdict()
        | {"simulations_per_second": speed}
        | per_minute(speed, cost, about["units"]),
        "best": best.choice._asdict() | {"trial": best.number} if best and best.choice else None,
        "best_flags": best.choice.flags(tuned.default) if best and best.choice else None,
        "gain": gain._asdict() | {"better": gain.better} if gain else None,
        "gains": {name: found._asdict() for name, found in tuned.gains.items()},
        "winner": tuned.winner._asdict(),
        "preset": about["preset"],
        "simulations_per_game": cost.simulations if cost else None,
        "interrupted": tuned.interrupted,
        "seconds": tuned.seconds,
    }


def print_tuned(tuned: Tuned, units: figures.Units, console: Console) -> None:
    """Print the best trials, what the default and the best come to in games per minute, and the finding."""
    cost, base = tuned.game_cost(), tuned.default_rate()
    tried = sorted((trial for trial in tuned.trials if trial.pairs), key=lambda trial: -trial.gain)
    texts = [(str(trial.number), verdict(trial), str(trial.choice)) for trial in tried[:_SHOWN]]
    if texts:
        print_lines(("trial", "by the default", "settings"), texts, console)
    skipped = sum(trial.state in ("skipped", "failed") for trial in tuned.trials)
    if skipped:
        console.print(f"{skipped} proposals could not be played here; trials.csv says why")
    for trial in tuned.trials:
        if trial.expected and trial.pairs:
            found = f"{trial.gain:.2f}x [{min(trial.ratios):.2f}, {max(trial.ratios):.2f}]"
            console.print(f"{trial.why}: expected {trial.expected:.2f}x the default, measured {found}", soft_wrap=True)
    gain = tuned.gain
    named = [("default", 1.0)] + ([("best", gain.median)] if gain else [])
    for name, times in named:
        rates = per_minute(base * times, cost, units)
        words = ", ".join(f"{form(rates[f'{unit}_per_minute'], '{:,.0f}')} {unit}/min" for unit in units)
        console.print(f"{name}: {base * times:,.0f} simulations/s, {words}")
    best = tuned.best
    if best and best.choice:
        console.print(f"the best differs by: {best.choice.flags(tuned.default)}", soft_wrap=True)
    console.print(f"\n{finding(tuned)}", soft_wrap=True)
    if tuned.rounds and (warning := busy_warning(mean_others(tuned.rounds))):
        console.print(warning, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
