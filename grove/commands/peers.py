"""`grove bench peers`: maps the settings, keeps the folder, prints."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from grove.commands.console import text_console
from grove.commands.load import folder_of, make_new, resolve_load
from grove.common.errors import SettingError
from grove.run.settings import Load, flatten


@dataclass(frozen=True, kw_only=True)
class Peers(Load):
    """Compare Grove with other projects in interleaved slices of one run: the same game, network and simulations a
    move. What is not installed is listed as not measured; the extra `peers` installs what can be."""

    seconds: float = 120.0
    """Seconds of measuring, over all; starting and warming comes on top (minutes: JAX compiles)."""
    peers: str = "mctx,open_spiel,mosec,litserve"
    """Comma-separated peers: mctx (with pgx) and open_spiel play, mosec and litserve serve rows to clients."""
    clients: int = 32
    """Processes that ask the batching servers, one message outstanding each."""
    out: str | None = None
    """New or empty folder for results.json, run.json, the chart and the games. By default a new one under runs/."""
    probe_limit: float = 0.1
    """Relative change of the burn probe from which a round is dropped; a tenth shows a lost core or clock."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.seconds <= 1e6:
            raise SettingError.of("seconds", self.seconds, "it must lie in 1..1000000", "choose how long to measure")
        if not 1 <= self.clients <= 256:
            raise SettingError.of("clients", self.clients, "it must lie in 1..256", "choose how many ask at once")
        if not 0 < self.probe_limit <= 1:
            raise SettingError.of("probe-limit", self.probe_limit, "it must lie in 0..1", "choose a share such as 0.1")


def peers(settings: Peers) -> int:
    """Compare with the peers, write results.json, run.json and chart.png, print the tables; returns the exit status."""
    from grove.bench.core.modes import Asked
    from grove.bench.core.report import busy_warning
    from grove.bench.peers.peers import GROVE, PeersAsked, check_game, parse_peers, run_peers
    from grove.bench.peers.report import print_peers, write_peers
    from grove.bench.peers.results import finding, rows

    chosen = parse_peers(settings.peers)
    _, settings, network = resolve_load(settings)
    check_game(settings.game)
    if settings.search.cache:
        raise SettingError.of("cache", settings.search.cache, "Grove plays with and without one", "leave it out")
    asked = Asked(
        game_spec=settings.game,
        modes=GROVE,
        seconds=settings.seconds,
        out=make_new(folder_of(settings, "peers")).resolve(),
        seed=settings.seed,
        search=settings.search,
        pool=settings.pool,
        network=settings.network,
        server=settings.server,
        probe_limit=settings.probe_limit,
    )
    wanted = PeersAsked(asked=asked, peers=chosen, clients=settings.clients)
    console = text_console()
    console.print(network)
    outcome = run_peers(wanted, console.print)
    found = rows(wanted, outcome)
    paths = write_peers(wanted, outcome, found, flatten(replace(settings, out=str(asked.out))), sys.argv)
    console.print()
    print_peers(found, console)
    if warning := busy_warning(outcome.others_cpu):
        console.print(warning)
    console.print(f"\n{finding(found)}\n{', '.join(map(str, paths))}")
    return 0
