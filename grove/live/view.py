"""What self-play shows while it runs: one calm screen in a terminal, one line every few seconds anywhere else."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grove.common.numbers import amount, duration, milliseconds, percent, reason_shares
from grove.common.words import plural
from grove.live.snapshot import Snapshot, eta_seconds, over_groups, what_binds
from grove.workers.pool.figures import counted

PLAIN_EVERY_S = 5.0
"""Default seconds between two plain lines."""

_REDRAW_S = 0.25
_WIDTH = 78
_SHOWN_LANES = 8
Pairs = list[tuple[str, str]]
"""Names and texts of figures."""


class LiveView:
    """Shows snapshots of a run until it is closed; a context manager, used by one thread."""

    def __init__(
        self,
        total_games: int,
        *,
        out: TextIO | None = None,
        plain_every_s: float = PLAIN_EVERY_S,
        width: int | None = None,
    ) -> None:
        """Prepare the view of a run towards `total_games`.

        `out`: where to (default stdout); a full terminal gets the screen, anything else plain lines at most every
        `plain_every_s` seconds. `width`: columns, by default the terminal's.
        """
        self.console = Console(file=sys.stdout if out is None else out, width=width, highlight=False)
        self.total = total_games
        """Games to be played in the end; may be changed."""
        self._shown_at = -math.inf
        self._state: dict[str, Any] = {}
        self._changed = False
        self._live: Live | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal and self.console.width >= _WIDTH:
            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
        self._every_s = _REDRAW_S if self._live else plain_every_s

    def update(self, snapshot: Snapshot) -> None:
        """Take in what changed; shown at once or, when something was shown a moment ago, with a later update."""
        known = "device" in self._state
        self._state.update(snapshot)
        self._changed = True
        if self._live is None and not known and "device" in self._state:
            self._say(head_lines(self._state))
        now = time.monotonic()
        if now - self._shown_at >= self._every_s:
            self._shown_at = now
            self._show()

    def message(self, text: str) -> None:
        """Say one thing for good, above the screen or as a line of its own."""
        self._say([text])

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            self._show()
        if self._live is not None:
            self._live.stop()

    def _show(self) -> None:
        self._changed = False
        if self._live is not None:
            self._live.update(screen(self._state, self.total), refresh=True)
        else:
            self._say([plain_line(self._state, self.total)])

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.console.print(Text(line), soft_wrap=self._live is None)


def head_lines(state: Snapshot) -> list[str]:
    """Return what a plain output says once: game, device, dtype, network, pool, each with its reason."""
    facts = [f"{name}: {value}{f' ({reason})' if reason else ''}" for name, value, reason in _facts(state)]
    return [f"Grove  {state.get('game', '')}  {state.get('folder', '')}".rstrip(), *facts]


def plain_line(state: Snapshot, total: int) -> str:
    """Return the state as one line without colours."""
    parts = [f"{state.get('games', 0):,}/{plural(total, _unit(state))}", _outlook(state, total)]
    pairs = [*_rates(state), *_batches(state), *_reasons(state), *_machine(state)]
    parts += [f"{name} {text}" for name, text in pairs if text != "-"]
    parts += [f"binds: {said}"] if (said := what_binds(state, total)) else []
    return "  ".join(parts)


def screen(state: Snapshot, total: int) -> RenderableType:
    """Return the whole screen: 78 columns or fewer, about 14 lines."""
    columns = Table.grid(padding=(0, 4, 0, 0))
    columns.add_row(*(_column(pairs) for pairs in (_rates(state), _batches(state), _reasons(state))))
    foot = Text("    ").join(Text.assemble((f"{name}  ", "dim"), text) for name, text in _machine(state))
    said = what_binds(state, total)
    binds = [Text.assemble(("binds  ", "dim"), said)] if said else []
    parts = ["", *_head(state), "", _progress(state, total), "", columns, "", foot, *binds, ""]
    return Padding(Group(*parts), (0, 1), expand=False)


def _head(state: Snapshot) -> list[RenderableType]:
    title, facts = Table.grid(expand=False), Table.grid(padding=(0, 2, 0, 0))
    title.width = facts.width = _WIDTH - 2
    title.add_column(no_wrap=True)
    title.add_column(justify="right", no_wrap=True, style="dim", overflow="ellipsis")
    what = Text.assemble(("Grove", "bold green"), "  ", (state.get("game", ""), "bold"))
    title.add_row(what, Text(state.get("folder", "")))
    for name, value, reason in _facts(state):
        facts.add_row(Text(name, "dim"), Text(value, no_wrap=True), Text(reason, "dim"))
    return [title, facts]


def _progress(state: Snapshot, total: int) -> RenderableType:
    done = state.get("games", 0)
    line = Table.grid(padding=(0, 2, 0, 0))
    line.width = _WIDTH - 2
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    bar = ProgressBar(total=max(total, 1), completed=done, complete_style="green", finished_style="green")
    said = f" of {plural(total, _unit(state))}", ("  " + _outlook(state, total), "dim")
    line.add_row(bar, Text.assemble((f"{done:,}", "bold"), *said))
    return line


def _column(pairs: Pairs) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for row in pairs:
        table.add_row(*map(Text, row))
    return table


# -- what both show --------------------------------------------------------------------------------------------------


def _facts(state: Snapshot) -> list[tuple[str, str, str]]:
    """Return (name, value, reason) of what was chosen at the start."""
    names = ("device", "dtype", "network", "pool")
    return [(name, state.get(name, "..."), state.get(f"{name}_reason", "")) for name in names]


def _unit(state: Snapshot) -> str:
    return str(state.get("unit", "games"))


def _outlook(state: Snapshot, total: int) -> str:
    return state.get("state") or f"ETA {duration(eta_seconds(state, total))}"


def _rates(state: Snapshot) -> Pairs:
    """Return the rates, those per minute in the units of the game."""
    hits = state.get("cache_hit_rate", 0.0)
    return [
        *((f"{unit}/min", amount(state.get(f"{unit}_per_minute"))) for unit in counted(state)),
        ("evaluations/s", amount(state.get("evaluations_per_second"))),
        ("simulations/s", amount(state.get("simulations_per_second"))),
        ("cache hits", "off" if hits is None else percent(state.get("cache_hit_rate"))),
    ]


def _batches(state: Snapshot) -> Pairs:
    return [
        ("rows/batch", amount(state.get("mean_batch_rows"))),
        ("fill", percent(state.get("fill"))),
        ("queue", milliseconds(state.get("queue_ms"))),
        ("compute", milliseconds(state.get("compute_ms"))),
    ]


def _reasons(state: Snapshot) -> Pairs:
    return reason_shares(state.get("dispatch_reasons", {}))


def _machine(state: Snapshot) -> Pairs:
    """Return workers, lanes, and what the run takes of the machine, once that was looked at."""
    workers = [f"{state['workers_alive']:,} alive" if "workers_alive" in state else "-"]
    workers += [f"{state['workers_restarted']:,} restarted"] if state.get("workers_restarted") else []
    workers += [plural(state["server_restarted"], "server restarts")] if state.get("server_restarted") else []
    idle = state.get("lane_idle", ())
    lanes = ", ".join(percent(share) for share in idle) or "-"
    if len(idle) > _SHOWN_LANES:
        lanes = f"{percent(min(idle))} to {percent(max(idle))} of {len(idle)}"
    pairs = [("workers", ", ".join(workers)), ("lanes idle", lanes)]
    cores, memory = over_groups(state.get("cpu_cores")), over_groups(state.get("memory_mb"))
    if cores is not None:
        pairs.append(("cores", f"{cores:.1f} of {state['cores']}" if "cores" in state else f"{cores:.1f}"))
    if memory is not None:
        pairs.append(("memory", f"{memory:,.0f} MB"))
    if gpus := state.get("gpus"):
        pairs.append(("GPU", ", ".join(percent(gpu.get("use")) for gpu in gpus)))
    return pairs
