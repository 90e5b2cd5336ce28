"""`grove bench limit`: maps the settings, keeps the folder, prints."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from common.errors import SettingError
from game import check, load_game
from grove.settings import flatten
from inference_server.network_settings import NetworkSettings, resolve_network
from inference_server.settings import ServerSettings
from mcts import check_worlds
from mcts.settings import SearchSettings
from workers.evaluators import row_spec
from workers.settings import PoolSettings


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Measure the network, the search, the wire and the writer alone, then the whole; say which of them binds and which
    one knob to turn next."""

    game: str = "connect_four"
    """Game to play."""
    seconds: float = 30.0
    """Seconds of measuring, over all parts; starting and warming them comes on top. 30: three rounds of 2 s a part."""
    out: str | None = None
    """New or empty folder for limit.json and the picture; its disk is the one that is measured. By default a new one
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
        if not 1 <= self.seconds <= 1e6:
            raise SettingError.of("seconds", self.seconds, "it must lie in 1..1000000", "choose how long to measure")
        if not 0 <= self.seed < (1 << 63) - 1:
            raise SettingError.of("seed", self.seed, "it must lie in 0..2**63-2", "choose such a number")
        if self.pool.evaluator != "server":
            limit = "the limit is that of self-play through the server"
            raise SettingError.of("evaluator", self.pool.evaluator, limit, "leave --evaluator out")


def limit(settings: Limit) -> int:
    """Find the limit, write limit.json and limit.png, print table and verdict; returns the exit status."""
    from bench.limit import LimitAsked, pool_plan, run_limit
    from bench.limit_report import print_limit, write_limit
    from bench.verdict import judge

    game = load_game(settings.game)
    check(game, games=2)
    check_worlds(game, settings.search)
    network, why = resolve_network(settings.network, row_spec(game))
    settings = replace(settings, game=game.name, network=network)
    asked = LimitAsked(
        game_spec=game.name,
        seconds=settings.seconds,
        out=_folder(settings.out, game.name),
        seed=settings.seed,
        search=settings.search,
        pool=settings.pool,
        network=network,
        server=settings.server,
    )
    pool_plan(asked)  # refuses what cannot work before a folder is made
    _make_new(asked.out)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"network: {network.model or network.network} ({why})")
    found = run_limit(asked, console.print)
    verdict = judge(found.measured)
    paths = write_limit(asked, found, verdict, flatten(settings) | {"out": str(asked.out)}, sys.argv)
    console.print()
    print_limit(found, verdict, console)
    console.print(f"\n{', '.join(map(str, paths))}")
    return 0


def _folder(out: str | None, game: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "".join(c if c.isalnum() else "-" for c in game)
    return Path(out) if out else Path("runs") / f"limit-{name}-{stamp}"


def _make_new(path: Path) -> None:
    """Make the folder. Raises SettingError when it cannot be written to or holds something."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = next((item.name for item in path.iterdir()), None)
    except OSError as error:
        raise SettingError.of("out", str(path), f"it cannot be used ({error})", "give a folder to write to") from None
    if foreign:
        raise SettingError.of("out", str(path), f"it holds {foreign!r} already", "give a new or empty folder")
