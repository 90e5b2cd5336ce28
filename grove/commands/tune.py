"""`grove tune`: maps the settings, keeps the folder, writes the preset, prints."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from grove.bench.limit.limit import LimitAsked, pool_plan
from grove.bench.tune.found import TuneAsked, Tuned
from grove.bench.tune.space import parse_knobs
from grove.commands.bench import Load, Probed, load_fields, make_new, resolve_load
from grove.commands.console import text_console
from grove.common import machine
from grove.common.errors import SettingError
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.run import preset
from grove.run.settings import check_range, flatten
from grove.workers.pool.figures import search_text
from grove.workers.pool.settings import PoolSettings

USUAL_MINUTES = 5.0
LEAST_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Tune(Probed):
    """Search the settings of pool and server that play the most games per minute on this machine, and keep them as a
    preset for `grove selfplay --preset NAME`. Simulations, worlds and leaves stay as you set them. The flags of pool
    and server describe the default that is to be beaten."""

    minutes: float = 0.0
    """Minutes for everything, starts included; 0 = 5, or as --seconds says."""
    seconds: float = 0.0
    """The same in seconds."""
    knobs: str = "all"
    """Comma-separated settings to search, the others stay as they are: pool, workers, games-per-worker, groups,
    max-batch, max-delay-us, lanes, dtype, cache; or all."""
    name: str | None = None
    """Name of the preset, which is then written even when the default is as good. By default tuned-GAME, written only
    when the tuned settings are faster."""
    overwrite: bool = False
    """Replace a preset of that name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes and self.seconds:
            limit = f"--seconds {self.seconds:g} is given too"
            raise SettingError.of("minutes", self.minutes, limit, "give one of them")
        if self.minutes:
            check_range("minutes", self.minutes, LEAST_S / 60, 1e5)
        elif self.seconds:
            check_range("seconds", self.seconds, LEAST_S, 1e6)
        check_range("seed", self.seed, 0, (1 << 32) - 1)
        self.only_served()

    @property
    def budget_s(self) -> float:
        """Seconds for everything."""
        return self.seconds or 60 * (self.minutes or USUAL_MINUTES)


def tune(settings: Tune) -> int:
    """Tune, write the files and the preset, print the finding; returns the exit status."""
    from grove.bench.tune.report import NOT_QUIET, print_tuned, write_tuned
    from grove.bench.tune.screen import TuneScreen
    from grove.bench.tune.tune import run_tune

    if importlib.util.find_spec("optuna") is None:  # it proposes the trials
        raise SettingError("grove tune needs the package optuna, which is not installed; pip install 'optuna>=4'")
    knobs = parse_knobs(settings.knobs)
    if settings.name is not None:
        preset.check_new(settings.name, settings.overwrite)
    game, settings, network = resolve_load(settings, "tune")
    load = LimitAsked(**load_fields(settings), seconds=settings.budget_s)
    pool_plan(load)  # refuses a default that cannot work before a folder is made
    make_new(settings)
    console = text_console()
    console.print(network)
    asked = TuneAsked(load=load, knobs=knobs, probe_limit=settings.probe_limit)
    with TuneScreen(console, settings.budget_s) as screen:
        tuned = run_tune(asked, screen)
    written = save_preset(settings, tuned)
    about = {
        "settings": flatten(settings),
        "preset": str(written) if written else None,
        "units": game.units,
    }
    paths = write_tuned(asked, tuned, about, sys.argv)
    console.print()
    print_tuned(tuned, game.units, console)
    if tuned.gain and tuned.gain.busy:
        console.print(f"no preset was written: {NOT_QUIET}; tune again on a quiet machine")
    if written:
        console.print(f"{written}: use it as `grove selfplay --preset {written.stem}`")
    console.print(", ".join(map(str, paths)))
    return 0


# -- the preset --------------------------------------------------------------------------------------------------------


def save_preset(settings: Tune, tuned: Tuned) -> Path | None:
    """Write the preset where it was asked for or is worth having; return its file. None of a proof that is none."""
    gain = tuned.gain
    if gain and gain.busy:
        return None
    if settings.name is None and not (gain and gain.better):
        return None
    name = settings.name or _free_name(settings)
    words = f"at {gain}" if gain and gain.better else "the default is as good as what was tried"
    here = f"{machine.describe()['cpu']}, {machine.usable_cores()} cores"
    about = f"{settings.game}, {search_text(settings.search)}, tuned {datetime.now():%Y-%m-%d} on {here}: {words}"
    return preset.write_preset(name, about, preset_settings(settings, tuned))


def _free_name(settings: Tune) -> str:
    """Return tuned-GAME, or with --overwrite off the first of tuned-GAME-2, ... that is not there yet."""
    name = "tuned-" + "-".join("".join(c if c.isalnum() else " " for c in settings.game).split())[:48]
    taken = () if settings.overwrite else preset.known()
    return next(one for one in (name, *(f"{name}-{number}" for number in range(2, 10000))) if one not in taken)


def preset_settings(settings: Load, tuned: Tuned) -> dict[str, Any]:
    """Return what the preset holds: the load as it was asked for, and all settings that were searched."""
    load: dict[str, Any] = {"game": settings.game, "simulations": settings.search.simulations}
    for part, kind in ((settings.search, SearchSettings), (settings.network, NetworkSettings),
                       (settings.pool, PoolSettings), (settings.server, ServerSettings)):  # fmt: skip
        usual = kind()
        names = [item.name for item in fields(usual)]
        load |= {name: getattr(part, name) for name in names if getattr(part, name) != getattr(usual, name)}
    if settings.network.model:
        load["model"] = str(Path(settings.network.model).resolve())
    return load | tuned.winner._asdict()
