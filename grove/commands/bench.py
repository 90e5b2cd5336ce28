"""`grove bench ...` and `grove profile`: maps the settings, keeps the folder, prints; `bench` measures."""

from __future__ import annotations

import shutil
import signal
import sys
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tomli_w

from grove.commands.console import text_console
from grove.common import machine
from grove.common.errors import PoolError, SettingError
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.settings import ServerSettings
from grove.mcts.settings import SearchSettings
from grove.run.folder import new_path
from grove.run.settings import FileSettings, check_range, flatten
from grove.workers.pool.settings import PoolSettings

if TYPE_CHECKING:
    from grove.game import Game

T = TypeVar("T", bound="Load")
_SOAK_GAMES, _SOAK_SIMULATIONS, _SOAK_MODELS = 16, 32, 8
"""What a kill costs is the games in progress: few games, soon over."""


@dataclass(frozen=True, kw_only=True)
class Load(FileSettings):
    """The load that a measuring command plays; each command adds what it measures."""

    game: str = "connect_four"
    """Game to play."""
    out: str | None = None
    """New or empty folder for figures, charts and games. By default a new one under runs/."""
    seed: int = 0
    """Seed of all games' randomness."""
    search: SearchSettings = field(default_factory=SearchSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    server: ServerSettings = field(default_factory=ServerSettings)

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, (1 << 63) - 1)

    def only_served(self) -> None:
        """Raise SettingError unless the load is played through the server."""
        if self.pool.evaluator != "server":
            limit = "self-play through the server is measured"
            raise SettingError.of("evaluator", self.pool.evaluator, limit, "leave --evaluator out")


@dataclass(frozen=True, kw_only=True)
class Probed(Load):
    """A load whose rounds count only while the machine keeps its speed."""

    probe_limit: float = 0.1
    """Relative change of the burn probe from which a round is left out; a tenth shows a lost core or clock."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("probe_limit", self.probe_limit, 1e-9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Compare(Probed):
    """Play the same games in several modes, in interleaved slices of one run, and compare their rates. The modes say
    which pool and which evaluator are used."""

    seconds: float = 120.0
    """Seconds of measuring, over all modes; starting and warming them comes on top."""
    modes: str = "direct,local,server-thread,server-process"
    """Comma-separated modes to compare: direct, local, server-thread, server-process; python-threads, one-position,
    always-waited (together `failed`: designs that were tried and given up, as evidence); full-only, time-out-only,
    drain, 1ms, adaptive-wait (together `fixed`: batching rules of other programs, in worker processes); or `all`."""
    plan: str | None = None
    """Training plan as ITERATIONSxGAMES, such as 500x10000: the days its games would take in each mode are added."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("seconds", self.seconds, 1, 1e6)


@dataclass(frozen=True, kw_only=True)
class Limit(Load):
    """Measure the network, the search, the wire and the writer alone, then the whole; say which of them binds."""

    seconds: float = 30.0
    """Seconds of measuring, over all parts; starting and warming them comes on top. 30: three rounds of 2 s a part.
    Rounds in which the machine changed its speed are played again, three at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("seconds", self.seconds, 1, 1e6)
        check_range("seed", self.seed, 0, (1 << 63) - 2)
        self.only_served()


@dataclass(frozen=True, kw_only=True)
class Peers(Probed):
    """Compare Grove with other projects in interleaved slices of one run: the same game, network and simulations a
    move. What is not installed is listed as not measured; the extra `peers` installs what can be."""

    seconds: float = 120.0
    """Seconds of measuring, over all; starting and warming comes on top (minutes: JAX compiles)."""
    peers: str = "mctx,open_spiel,mosec,litserve"
    """Comma-separated peers: mctx (with pgx) and open_spiel play, mosec and litserve serve rows to clients."""
    clients: int = 32
    """Processes that ask the batching servers, one message outstanding each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("seconds", self.seconds, 1, 1e6)
        check_range("clients", self.clients, 1, 256)


@dataclass(frozen=True, kw_only=True)
class Profile(Load):
    """Play a load for a few seconds and say where the time goes, stage by stage and function by function."""

    games: int = 200
    """Games of the run to be profiled: no more are in progress at once, as in that run. A profile itself ends by the
    clock."""
    seconds: float = 20.0
    """Seconds of measuring: half with stage timers, a quarter with cProfile, a quarter undisturbed and with py-spy.
    Starting and warming the three pools comes on top."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("seconds", self.seconds, 1, 3600)
        check_range("games", self.games, 1, 1 << 40)


@dataclass(frozen=True, kw_only=True)
class Soak(Load):
    """Harm a run for a while: kill and stop its processes, swap its models, fill a disk; then check that every game is
    there once. Ends with status 1 when anything was lost, doubled, wrong or left behind. Games are played by worker
    processes."""

    minutes: float = 30.0
    """Minutes of playing; starting, the exact end and the check come on top."""
    every: float = 10.0
    """Seconds between two kills."""
    faults: str = "all"
    """Comma-separated faults to inject, such as worker,server; or all. A wrong name lists them."""
    search: SearchSettings = field(default_factory=partial(SearchSettings, simulations=_SOAK_SIMULATIONS))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("minutes", self.minutes, 0.1, 1e5)
        check_range("every", self.every, 0.1, 3600)
        if self.pool.pool == "thread" or self.pool.evaluator != "server":
            limit = "a soak kills worker processes and the server beside them"
            raise SettingError.of("pool", f"{self.pool.pool}, {self.pool.evaluator}", limit, "leave the flags out")


# -- what they share ---------------------------------------------------------------------------------------------------


def resolve_load(settings: T, command: str) -> tuple[Game, T, str]:
    """Return the game, the settings with game, network and folder resolved, and a line on the network and why.

    The folder is not made. Raises GroveError when the game breaks its contract or the settings do not suit it.
    """
    from grove.game import check, load_game
    from grove.inference_server.interface.network_settings import resolve_network
    from grove.mcts import check_worlds
    from grove.workers.selfplay.evaluators import row_spec

    game = load_game(settings.game)
    check(game, games=2)
    check_worlds(game, settings.search)
    network, why = resolve_network(settings.network, row_spec(game))
    said = f"network: {network.model or network.network} ({why})"
    out = settings.out or new_path(f"{command}-{game.name}")
    return game, replace(settings, game=game.name, network=network, out=str(out)), said


def load_fields(settings: Load) -> dict[str, Any]:
    """Return what `bench` wants to know of a resolved load."""
    return {
        **{"game_spec": settings.game, "out": Path(str(settings.out)), "seed": settings.seed},
        **{"search": settings.search, "pool": settings.pool, "network": settings.network, "server": settings.server},
    }


def make_new(settings: Load) -> Path:
    """Make the folder and return it. Raises SettingError when it cannot be written to or holds something."""
    path = Path(str(settings.out))
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = next((item.name for item in path.iterdir()), None)
    except OSError as error:
        raise SettingError.of("out", str(path), f"it cannot be used ({error})", "give a folder to write to") from None
    if foreign:
        raise SettingError.of("out", str(path), f"it holds {foreign!r} already", "give a new or empty folder")
    return path


# -- the commands ------------------------------------------------------------------------------------------------------


def compare(settings: Compare) -> int:
    """Compare the modes and write results.json, run.json and chart.png; returns the exit status."""
    from grove import bench

    modes, plan = bench.parse_modes(settings.modes), bench.parse_plan(settings.plan)
    _, settings, network = resolve_load(settings, "compare")
    given = load_fields(settings)
    asked = bench.Asked(**given, modes=modes, seconds=settings.seconds, probe_limit=settings.probe_limit)
    bench.pool_plans(asked)  # refuses what cannot work before a folder is made
    make_new(settings)
    console = text_console()
    console.print(network)
    outcome = bench.run_comparison(asked, console.print)
    bench.write_header(asked, outcome, flatten(settings), sys.argv)
    rows = bench.rows(outcome, asked.probe_limit)
    if plan:
        rows = [row | bench.plan_columns(plan, row) for row in rows]
    paths = bench.write_results(asked, rows)
    console.print()
    bench.print_table(rows, console)
    if warning := bench.busy_warning(outcome.others_cpu):
        console.print(warning)
    if plan:
        console.print()
        bench.print_days(plan, [(row["mode"], row) for row in rows if row["mode"] in modes], console)
    console.print(f"\n{rows[0]['rounds']} rounds, {rows[0]['rounds_dropped']} dropped; {', '.join(map(str, paths))}")
    return 0


def limit(settings: Limit) -> int:
    """Find the limit, write limit.json and limit.png, print table and verdict; returns the exit status."""
    from grove.bench.limit.limit import LimitAsked, pool_plan, run_limit
    from grove.bench.limit.report import print_limit, write_limit
    from grove.bench.limit.verdict import judge

    _, settings, network = resolve_load(settings, "limit")
    asked = LimitAsked(**load_fields(settings), seconds=settings.seconds)
    pool_plan(asked)  # refuses what cannot work before a folder is made
    make_new(settings)
    console = text_console()
    console.print(network)
    found = run_limit(asked, console.print)
    verdict = judge(found.measured)
    paths = write_limit(asked, found, verdict, flatten(settings), sys.argv)
    console.print()
    print_limit(found, verdict, console)
    console.print(f"\n{', '.join(map(str, paths))}")
    return 0


def peers(settings: Peers) -> int:
    """Compare with the peers, write results.json, run.json and chart.png, print the tables; returns the exit status."""
    from grove.bench.core.modes import Asked
    from grove.bench.core.report import busy_warning
    from grove.bench.peers.peers import GROVE, PeersAsked, check_game, parse_peers, run_peers
    from grove.bench.peers.report import print_peers, write_peers
    from grove.bench.peers.results import finding, rows

    chosen = parse_peers(settings.peers)
    _, settings, network = resolve_load(settings, "peers")
    check_game(settings.game)
    if settings.search.cache:
        raise SettingError.of("cache", settings.search.cache, "Grove plays with and without one", "leave it out")
    settings = replace(settings, out=str(make_new(settings).resolve()))
    given = load_fields(settings)
    asked = Asked(**given, modes=GROVE, seconds=settings.seconds, probe_limit=settings.probe_limit)
    wanted = PeersAsked(asked=asked, peers=chosen, clients=settings.clients)
    console = text_console()
    console.print(network)
    outcome = run_peers(wanted, console.print)
    found = rows(wanted, outcome)
    paths = write_peers(wanted, outcome, found, flatten(settings), sys.argv)
    console.print()
    print_peers(found, console)
    if warning := busy_warning(outcome.others_cpu):
        console.print(warning)
    console.print(f"\n{finding(found)}\n{', '.join(map(str, paths))}")
    return 0


def profile(settings: Profile) -> int:
    """Profile the load and write the folder; returns the exit status."""
    from grove.bench.profile.figures import figures_of
    from grove.bench.profile.profile import PSTATS, run_profile
    from grove.bench.profile.table import write_profile

    game, settings, network = resolve_load(settings, "profile")
    out = make_new(settings)
    console = text_console()
    console.print(network)
    try:
        found = run_profile(_profile_plan(settings, game, out), out, settings.seconds, console.print)
    except PoolError:
        shutil.rmtree(out, ignore_errors=True)  # it was empty, so that mended settings may use it
        raise
    head = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        **{"command": list(sys.argv), **machine.provenance(), "settings": flatten(settings)},
    }
    written, text = write_profile(out, head, figures_of(found, None), out / PSTATS)
    console.print(f"\n{text}\n\n{', '.join(map(str, written))}")
    return 0


def _profile_plan(settings: Profile, game: Game, out: Path) -> Any:
    from grove.workers.pool.plan import PoolPlan
    from grove.workers.pool.sizing import check_memory, check_requests, pool_kind, sizes

    pool, server = settings.pool, settings.server
    kind, _ = pool_kind(pool, game)
    chosen = sizes(kind, pool, server, settings.games, settings.network.device, settings.search.worlds)
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
        sizes=chosen,
        stagger=True,
    )


def soak(settings: Soak) -> int:
    """Soak a run, write soak.json, print the table; returns 0 when it is sound, otherwise 1."""
    from grove.bench.soak.faults import parse_faults
    from grove.bench.soak.models import make_models
    from grove.bench.soak.report import print_soak, write_soak
    from grove.bench.soak.soak import SoakAsked, run_soak
    from grove.workers.selfplay.evaluators import row_spec

    faults = parse_faults(settings.faults)
    game, settings, network = resolve_load(settings, "soak")
    pool = replace(settings.pool, pool="process", games_per_worker=settings.pool.games_per_worker or _SOAK_GAMES)
    out = make_new(settings).resolve()
    settings = replace(settings, pool=pool, out=str(out))
    console = text_console()
    console.print(network)
    models = make_models(settings.network, row_spec(game), out / "models", _SOAK_MODELS)
    load, own = out / "load.toml", ("minutes", "every", "faults", "out", "preset", "config")
    load.write_text(tomli_w.dumps({key: value for key, value in flatten(settings).items() if key not in own}))
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
    path = write_soak(asked, found, flatten(settings), sys.argv)
    console.print()
    print_soak(asked, found, console)
    console.print(f"\n{path}")
    return 0 if found.sound else 1
