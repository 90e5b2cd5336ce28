"""`grove profile`: where the time of workers and server goes, for the load that the flags of selfplay describe."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from bench.profile import PSTATS, Profiled, run_profile
from bench.profile_figures import figures_of
from bench.profile_table import write_profile
from common import machine
from common.errors import PoolError, SettingError
from game import check, load_game
from game.contract import Game
from grove.settings import flatten
from inference_server.network_settings import NetworkSettings, resolve_network
from inference_server.settings import ServerSettings
from mcts import SearchSettings, check_worlds
from workers.evaluators import row_spec
from workers.gil import gil_seconds_per_lap
from workers.plan import PoolPlan
from workers.settings import PoolSettings
from workers.sizing import check_memory, check_requests, sizes


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Play a load for a few seconds and say where the time goes, stage by stage and function by function."""

    game: str = "connect_four"
    """Game to play."""
    games: int = 200
    """Games of the run to be profiled: no more are in progress at once, as in that run. A profile itself ends by the
    clock."""
    seconds: float = 20.0
    """Seconds of measuring: half with stage timers, a quarter with cProfile, a quarter undisturbed and with py-spy.
    Starting and warming the three pools comes on top."""
    out: str | None = None
    """New or empty folder for profile.json, the tables, the pstats file and the flame graphs. By default a new one
    under runs/."""
    seed: int = 0
    """Seed of all games' randomness."""
    preset: str | None = None
    """Named load: blob-diagnostic, blob-light, blob-medium, blob-heavy, or one of your own under
    ~/.config/grove/presets. What it says of other commands is left out, because it describes a load."""
    config: str | None = None
    """TOML file with any of these settings."""
    search: SearchSettings = field(default_factory=SearchSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    server: ServerSettings = field(default_factory=ServerSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= 3600:
            raise SettingError.of("seconds", self.seconds, "it must lie in 1..3600", "choose how long to measure")
        if self.games < 1:
            raise SettingError.of("games", self.games, "it must be at least 1", "choose how many games the run plays")
        if not 0 <= self.seed < 1 << 63:
            raise SettingError.of("seed", self.seed, "it must lie in 0..2**63-1", "choose such a number")


def profile(settings: Profile) -> int:
    """Profile the load and write the folder; returns the exit status."""
    game = load_game(settings.game)
    check(game, games=2)
    check_worlds(game, settings.search)
    network, why = resolve_network(settings.network, row_spec(game))
    settings = replace(settings, game=game.name, network=network)
    out = _new_folder(settings.out, game.name)
    plan = _plan(settings, game, out)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"network: {network.model or network.network} ({why})")
    try:
        found = run_profile(plan, out, settings.seconds, console.print)
    except PoolError:
        shutil.rmtree(out, ignore_errors=True)  # it was empty, so that mended settings may use it
        raise
    written, text = _write(settings, found, game, out)
    console.print(f"\n{text}\n\n{', '.join(map(str, written))}", markup=False)
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
    per_lap = gil_seconds_per_lap(game, settings.search.simulations) if game.compiled else None
    head = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(sys.argv),
        **machine.provenance(),
        "settings": flatten(settings) | {"out": str(out)},
    }
    return write_profile(out, head, figures_of(found, per_lap), out / PSTATS)


def _new_folder(out: str | None, game: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "".join(c if c.isalnum() else "-" for c in game)
    path = Path(out) if out else Path("runs") / f"profile-{name}-{stamp}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = next((item.name for item in path.iterdir()), None)
    except OSError as error:
        raise SettingError.of("out", str(path), f"it cannot be used ({error})", "give a folder to write to") from None
    if foreign:
        raise SettingError.of("out", str(path), f"it holds {foreign!r} already", "give a new or empty folder")
    return path
