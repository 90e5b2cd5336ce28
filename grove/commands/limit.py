"""`grove bench limit`: maps the settings, keeps the folder, prints."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from grove.commands.console import text_console
from grove.commands.load import folder_of, make_new, resolve_load
from grove.common.errors import SettingError
from grove.run.settings import Load, flatten


@dataclass(frozen=True, kw_only=True)
class Limit(Load):
    """Measure the network, the search, the wire and the writer alone, then the whole; say which of them binds and which
    one setting to change next."""

    seconds: float = 30.0
    """Seconds of measuring, over all parts; starting and warming them comes on top. 30: three rounds of 2 s a part.
    Rounds in which the machine changed its speed are played again, three at most."""
    out: str | None = None
    """New or empty folder for limit.json and the picture; its disk is the one that is measured. By default a new one
    under runs/."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.seconds <= 1e6:
            raise SettingError.of("seconds", self.seconds, "it must lie in 1..1000000", "choose how long to measure")
        if not 0 <= self.seed < (1 << 63) - 1:
            raise SettingError.of("seed", self.seed, "it must lie in 0..2**63-2", "choose such a number")
        if self.pool.evaluator != "server":
            limit = "the limit is that of self-play through the server"
            raise SettingError.of("evaluator", self.pool.evaluator, limit, "leave --evaluator out")


def limit(settings: Limit) -> int:
    """Find the limit, write limit.json and limit.png, print table and verdict; returns the exit status."""
    from grove.bench.limit.limit import LimitAsked, pool_plan, run_limit
    from grove.bench.limit.report import print_limit, write_limit
    from grove.bench.limit.verdict import judge

    _, settings, network = resolve_load(settings)
    asked = LimitAsked(
        game_spec=settings.game,
        seconds=settings.seconds,
        out=folder_of(settings, "limit"),
        seed=settings.seed,
        search=settings.search,
        pool=settings.pool,
        network=settings.network,
        server=settings.server,
    )
    pool_plan(asked)  # refuses what cannot work before a folder is made
    make_new(asked.out)
    console = text_console()
    console.print(network)
    found = run_limit(asked, console.print)
    verdict = judge(found.measured)
    paths = write_limit(asked, found, verdict, flatten(settings) | {"out": str(asked.out)}, sys.argv)
    console.print()
    print_limit(found, verdict, console)
    console.print(f"\n{', '.join(map(str, paths))}")
    return 0
