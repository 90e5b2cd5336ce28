"""What a tuning shows while it goes on: one screen in a terminal, one line a trial anywhere else."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from grove.bench.tune.found import Trial

_SHOWN = 12
"""Trials on the screen: the best ones."""


class TuneScreen:
    """Shows trials; a context manager, used by one thread."""

    def __init__(self, console: Console, budget_s: float) -> None:
        self._console, self._until = console, time.monotonic() + budget_s
        self._trials: list[Trial] = []
        self._now = "starting"
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=2, transient=True)

    def say(self, text: str) -> None:
        """Print a line for good; on a terminal above the screen."""
        self._console.print(text, soft_wrap=True)

    def begins(self, trial: Trial, left_s: float) -> None:
        """Show what is tried now."""
        self._now = f"trying {trial.choice} ({trial.why})"

    def ended(self, trial: Trial) -> None:
        """Show what a trial found."""
        self._trials.append(trial)
        self._now = "choosing"
        if not self._console.is_terminal:
            self.say(f"{trial.number}: {verdict(trial)}: {trial.choice} ({trial.why})")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def _draw(self) -> RenderableType:
        left = max(0.0, self._until - time.monotonic())
        head = Text(f"{left / 60:.0f} min {left % 60:02.0f} s left, {len(self._trials)} tried; {self._now}")
        table = Table("trial", box=None, pad_edge=False)
        table.add_column("by the default", justify="right")
        table.add_column("")
        best = sorted(self._trials, key=lambda trial: -trial.gain)[:_SHOWN]
        for trial in best:
            table.add_row(str(trial.number), verdict(trial), str(trial.choice))
        return Group(head, table) if best else head


def verdict(trial: Trial) -> str:
    """Return in a word or two what a trial found."""
    if trial.state in ("failed", "skipped"):
        return trial.state
    return f"{trial.gain:.2f}x" + (", cut" if trial.state == "cut" else "")
