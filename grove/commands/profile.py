"""`grove profile`: where the time of workers and server goes, for the load that the flags of selfplay describe."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from grove.bench.profile.figures import figures_of
from grove.bench.profile.profile import PSTATS, Profiled, run_profile
from grove.bench.profile.table import write_profile
from grove.commands.console import text_console
from grove.commands.load import folder_of, make_new, resolve_load
from grove.common import machine
from grove.common.errors import PoolError, SettingError
from grove.game.contract import Game
from grove.run.settings import Load, flatten
from grove.workers.pool.gil import gil_seconds_per_step
from grove.workers.pool.plan import PoolPlan
from grove.workers.pool.sizing import check_memory, check_requests, sizes


@dataclass(frozen=True, kw_only=True)
class Profile(Load):
    """Play a load for a few seconds and say where the time goes, stage by stage and function by function."""

    games: int = 200
    """Games of the run to be profiled: no more are in progress at once, as in that run. A profile itself ends by the
    clock."""
    seconds: float = 20.0
    """Seconds of measuring: half with stage timers, a quarter with cProfile, a quarter undisturbed and with py-spy.
    Starting and warming the three pools comes on top."""
    out: str | None = None
    """New or empty folder for profile.json, the tables, the pstats file and the flame graphs. By default a new one
    under runs/."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.seconds <= 3600:
            raise SettingError.of("seconds", self.seconds, "it must lie in 1..3600", "choose how long to measure")
        if self.games < 1:
            raise SettingError.of("games", self.games, "it must be at least 1", "choose how many games the run plays")
        if not 0 <= self.seed < 1 << 63:
            raise SettingError.of("seed", self.seed, "it must lie in 0..2**63-1", "choose such a number")


def profile(settings: Profile) -> int:
    """Profile the load and write the folder; returns the exit status."""
    game, settings, network = resolve_load(settings)
    out = make_new(folder_of(settings, "profile"))
    plan = _plan(settings, game, out)
    console = text_console()
    console.print(network)
    try:
        found = run_profile(plan, out, settings.seconds, console.print)
    except PoolError:
        shutil.rmtree(out, ignore_errors=True)  # it was empty, so that mended settings may use it
        raise
    written, text = _write(settings, found, game, out)
    console.print(f"\n{text}\n\n{', '.join(map(str, written))}")
    return 0


def _plan(settings: Profile, game: Game, out: Path) -> PoolPlan:
    pool, server = settings.pool, settings.server
    thread, process = sizes(pool, server, settings.games, settings.network.device, settings.search.worlds)
    kind = "process" if pool.pool == "auto" and pool.evaluator != "server" and not game.compiled else pool.pool
    for chosen in {"auto": (thread, process), "thread": (thread,), "process": (process,)}[kind]:
        check_memory(game, settings.search, chosen)
        if pool.evaluator == "server":
            check_requests(settings.search, server, chosen)
    return PoolPlan(
        game_spec=game.name,
        run_seed=settings.seed,
        games_folder=out / "games",
        search=settings.search,
        network=settings.network,
        server=server,
        evaluator=pool.evaluator,
        pool=kind,
        thread_sizes=thread,
        process_sizes=process,
        stagger=True,
    )


def _write(settings: Profile, found: Profiled, game: Game, out: Path) -> tuple[list[Path], str]:
    per_step = gil_seconds_per_step(game, settings.search.simulations) if game.compiled else None
    head = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(sys.argv),
        **machine.provenance(),
        "settings": flatten(settings) | {"out": str(out)},
    }
    return write_profile(out, head, figures_of(found, per_step), out / PSTATS)
