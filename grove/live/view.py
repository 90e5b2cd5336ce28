"""What self-play shows while it runs: one calm screen in a terminal, one line every few seconds anywhere else."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self, TextIO, cast

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
        self._every_s = _REDRAW_S
        self._shown_at = -math.inf
        self._state: Snapshot = {}
        self._changed = False
        self._live: Live | None = None
        wide_enough = self.console.width >= _WIDTH
        if self.console.is_terminal and not self.console.is_dumb_terminal and wide_enough:
            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
        else:
            self._every_s = plain_every_s

    def update(self, snapshot: Snapshot) -> None:
        """Take in what changed; shown at once or, when something was shown a moment ago, with a later update."""
        known = self._state.keys() >= {"device", "pool"}
        self._state.update(snapshot)
        self._changed = True
        if self._live is None and not known and self._state.keys() >= {"device", "pool"}:
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


# -- the screen ------------------------------------------------------------------------------------------------------


def screen(state: Snapshot, total: int) -> RenderableType:
    """Return the whole screen: 78 columns or fewer, about 14 lines."""
    columns = Table.grid(padding=(0, 4, 0, 0))
    columns.add_row(_pairs(_figures(state)), _pairs(_batch_figures(state)), _pairs(_reasons(state)))
    blank = Text()
    foot = [_foot(state), *_machine(state), *_verdict(state, total)]
    parts = [blank, *_head(state), blank, _progress(state, total), blank, columns, blank, *foot, blank]
    return Padding(Group(*parts), (0, 1), expand=False)


def _head(state: Snapshot) -> list[RenderableType]:
    title = Table.grid(expand=False)
    title.width = _WIDTH - 2
    title.add_column(no_wrap=True)
    title.add_column(justify="right", no_wrap=True, style="dim", overflow="ellipsis")
    what = Text.assemble(("Grove", "bold green"), "  ", (state.get("game", ""), "bold"))
    title.add_row(what, Text(state.get("folder", "")))
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.width = _WIDTH - 2
    for name, value, reason in _facts(state):
        facts.add_row(Text(name, "dim"), Text(value, no_wrap=True), Text(reason, "dim"))
    return [title, facts]


def _facts(state: Snapshot) -> list[tuple[str, str, str]]:
    """Return (name, value, reason) of what was chosen at the start."""
    return [
        ("device", state.get("device", "..."), state.get("device_reason", "")),
        ("dtype", state.get("dtype", "..."), state.get("dtype_reason", "")),
        ("network", state.get("network", "..."), state.get("network_reason", "")),
        ("pool", state.get("pool", "..."), state.get("pool_reason", "")),
    ]


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


def _outlook(state: Snapshot, total: int) -> str:
    return state.get("state") or f"ETA {duration(eta_seconds(state, total))}"


def _figures(state: Snapshot) -> list[tuple[str, str]]:
    return [
        *_rates(state),
        ("evaluations/s", amount(state.get("evaluations_per_second"))),
        ("simulations/s", amount(state.get("simulations_per_second"))),
        ("cache hits", _cache(state)),
    ]


def _batch_figures(state: Snapshot) -> list[tuple[str, str]]:
    return [
        ("rows/batch", amount(state.get("mean_batch_rows"))),
        ("fill", percent(state.get("fill"))),
        ("queue", milliseconds(state.get("queue_ms"))),
        ("compute", milliseconds(state.get("compute_ms"))),
    ]


def _pairs(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _foot(state: Snapshot) -> Text:
    restarted = state.get("workers_restarted", 0)
    workers = Text.assemble(("workers  ", "dim"), f"{amount(state.get('workers_alive'))} alive")
    workers.append(f", {restarted} restarted" if restarted else "", "yellow")
    workers.append(f", {_server_restarts(state)}" if state.get("server_restarted") else "", "yellow")
    return Text.assemble(workers, ("    lanes idle  ", "dim"), _lanes(state))


def _machine(state: Snapshot) -> list[Text]:
    """Return the line about processors, memory and GPUs, once they were looked at."""
    words = _machine_words(state)
    spans = [(text, "dim") if index % 2 == 0 else text for index, text in enumerate(words)]
    return [Text.assemble(*spans)] if words else []


def _verdict(state: Snapshot, total: int) -> list[Text]:
    said = what_binds(state, total)
    return [Text.assemble(("binds  ", "dim"), said)] if said else []


# -- plain lines -----------------------------------------------------------------------------------------------------


def head_lines(state: Snapshot) -> list[str]:
    """Return what a plain output says once: game, device, dtype, network, pool, each with its reason."""
    title = "  ".join(part for part in (state.get("game", ""), state.get("folder", "")) if part)
    facts = [f"{name}: {value}{f' ({reason})' if reason else ''}" for name, value, reason in _facts(state)]
    return [f"Grove  {title}".rstrip(), *facts]


def plain_line(state: Snapshot, total: int) -> str:
    """Return the state as one line without colours."""
    words = [("queue", milliseconds(state.get("queue_ms"))), ("compute", milliseconds(state.get("compute_ms")))]
    words += [("fill", percent(state.get("fill"))), ("cache hits", _cache(state)), ("lanes idle", _lanes(state))]
    figures = [
        *((value, name) for name, value in _rates(state)),
        (amount(state.get("evaluations_per_second")), "evals/s"),
        (amount(state.get("simulations_per_second")), "sims/s"),
        (amount(state.get("mean_batch_rows")), "rows/batch"),
        *((name, value) for name, value in words if value != "-"),
        *((reason, share) for reason, share in _reasons(state) if share != "-"),
        *_pairwise(_machine_words(state)),
    ]
    parts = [f"{state.get('games', 0):,}/{plural(total, _unit(state))}", _outlook(state, total)]
    parts += [f"{first} {second}" for first, second in figures if first != "-"]
    parts += [plural(state["workers_alive"], "workers")] if "workers_alive" in state else []
    parts += [f"{state['workers_restarted']:,} restarted"] if state.get("workers_restarted") else []
    parts += [_server_restarts(state)] if state.get("server_restarted") else []
    parts += [f"binds: {said}"] if (said := what_binds(state, total)) else []
    return "  ".join(parts)


# -- what both show --------------------------------------------------------------------------------------------------


def _machine_words(state: Snapshot) -> list[str]:
    """Return names and figures in turn: cores taken, memory, use of the GPUs."""
    words: list[str] = []
    cores, memory = over_groups(state.get("cpu_cores")), over_groups(state.get("memory_mb"))
    if cores is not None:
        of = f" of {state['cores']}" if "cores" in state else ""
        words += ["cores  ", f"{cores:.1f}{of}"]
    if memory is not None:
        words += ["    memory  " if words else "memory  ", f"{memory:,.0f} MB"]
    if gpus := state.get("gpus"):
        words += ["    GPU  ", ", ".join(percent(gpu.get("use")) for gpu in gpus)]
    return words


def _pairwise(words: Sequence[str]) -> list[tuple[str, str]]:
    return [(name.strip(), text) for name, text in zip(words[::2], words[1::2], strict=True)]


def _server_restarts(state: Snapshot) -> str:
    return plural(state.get("server_restarted", 0), "server restarts")


def _unit(state: Snapshot) -> str:
    return state.get("unit", "games")


def _rates(state: Snapshot) -> list[tuple[str, str]]:
    """Return (name, text) of the rates per minute, in the units of the game."""
    figures = cast(Mapping[str, Any], state)
    return [(f"{unit}/min", amount(figures.get(f"{unit}_per_minute"))) for unit in counted(figures)]


def _reasons(state: Snapshot) -> list[tuple[str, str]]:
    return reason_shares(state.get("dispatch_reasons", {}))


def _cache(state: Snapshot) -> str:
    return "off" if state.get("cache_hit_rate", 0.0) is None else percent(state.get("cache_hit_rate"))


def _lanes(state: Snapshot) -> str:
    idle = state.get("lane_idle", ())
    if len(idle) > _SHOWN_LANES:
        return f"{percent(min(idle))} to {percent(max(idle))} of {len(idle)}"
    return ", ".join(percent(share) for share in idle) or "-"
