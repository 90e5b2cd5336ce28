"""`grove bench soak`: maps the settings, keeps the folder, prints."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, field, replace

from grove.commands.console import text_console
from grove.commands.load import folder_of, make_new, resolve_load
from grove.common.errors import SettingError
from grove.mcts import SearchSettings
from grove.run import toml
from grove.run.settings import Load, flatten
from grove.workers.selfplay.evaluators import row_spec

GAMES_EACH = 16
"""Games of a worker where none are asked for. What a kill costs is the games in progress: few games, soon over."""
SIMULATIONS = 32
"""Descents a decision where nothing else is asked for, for the same reason."""
_MODELS = 8
_NOT_OF_THE_RUN = ("minutes", "every", "faults", "out", "preset", "config")


@dataclass(frozen=True, kw_only=True)
class Soak(Load):
    """Harm a run for a while: kill and stop its processes, swap its models, fill a disk; then check
    that every game is there once. Ends with status 1 when anything was lost, doubled, wrong or left behind. Games are
    played by worker processes."""

    minutes: float = 30.0
    """Minutes of playing; starting, the exact end and the check come on top."""
    every: float = 10.0
    """Seconds between two kills."""
    faults: str = "all"
    """Comma-separated faults to inject, such as worker,server; or all. A wrong name lists them."""
    out: str | None = None
    """New or empty folder for soak.json, the run, its models and what it said. By default a new one under runs/."""
    search: SearchSettings = field(default_factory=lambda: SearchSettings(simulations=SIMULATIONS))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.1 <= self.minutes <= 1e5:
            raise SettingError.of("minutes", self.minutes, "it must lie in 0.1..100000", "choose how long to soak")
        if not 0.1 <= self.every <= 3600:
            raise SettingError.of("every", self.every, "it must lie in 0.1..3600 s", "choose such a time")
        if self.pool.pool == "thread" or self.pool.evaluator != "server":
            limit = "a soak kills worker processes and the server beside them"
            raise SettingError.of("pool", f"{self.pool.pool}, {self.pool.evaluator}", limit, "leave the flags out")


def soak(settings: Soak) -> int:
    """Soak a run, write soak.json, print the table; returns 0 when it is sound, otherwise 1."""
    from grove.bench.soak.faults import parse_faults
    from grove.bench.soak.models import make_models
    from grove.bench.soak.report import print_soak, write_soak
    from grove.bench.soak.soak import SoakAsked, run_soak

    faults = parse_faults(settings.faults)
    game, settings, network = resolve_load(settings)
    pool = replace(settings.pool, pool="process", games_per_worker=settings.pool.games_per_worker or GAMES_EACH)
    settings = replace(settings, pool=pool)
    out = make_new(folder_of(settings, "soak")).resolve()
    console = text_console()
    console.print(network)
    models = make_models(settings.network, row_spec(game), out / "models", _MODELS)
    load = out / "load.toml"
    load.write_text(toml.dumps({k: v for k, v in flatten(settings).items() if k not in _NOT_OF_THE_RUN}))
    asked = SoakAsked(
        game_spec=settings.game,
        load=load,
        out=out,
        seed=settings.seed,
        seconds=60 * settings.minutes,
        every_s=settings.every,
        faults=faults,
        models=models,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the run is ended, too
    found = run_soak(asked, console.print)
    path = write_soak(asked, found, flatten(settings) | {"out": str(out)}, sys.argv)
    console.print()
    print_soak(asked, found, console)
    console.print(f"\n{path}")
    return 0 if found.sound else 1
