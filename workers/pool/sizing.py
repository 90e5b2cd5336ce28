"""How many workers and games fill the lanes: what is derived where the user left it open, and from what."""

from __future__ import annotations

from grove.common.errors import SettingError
from grove.common.machine import free_memory_bytes, gpus, usable_cores
from grove.game.contract import Game
from grove.inference_server import ServerSettings
from grove.mcts import SearchSettings, forest_capacity
from grove.workers.pool.plan import Kind, Sizes
from grove.workers.pool.settings import PoolSettings

MOST_THREAD_CORES = 8
"""Cores up to which search threads keep the lanes busy: they share one GIL, which the rows of more would fill."""
_FEWEST_TREES, _FEWEST_GAMES = 64, 16
"""Trees and games of a worker at least, so that each call of a kernel and each move played serves many."""
_GROUPS = 4
_CROWD = 4
"""Workers a core from which one group each is enough: the others' rows keep the lanes busy, and messages stay long."""


def pool_kind(pool: PoolSettings, game: Game) -> tuple[Kind, str]:
    """Return whether workers shall be search threads of the server's process or processes, and why."""
    cores = usable_cores()
    if pool.pool != "auto":
        return pool.pool, "as asked for"
    if pool.evaluator in ("local", "direct"):
        return "process", f"the {pool.evaluator} evaluator has a network in every worker"
    if not game.compiled:
        return "process", f"{game.name} is written in Python and would hold the GIL"
    if cores > MOST_THREAD_CORES:
        return "process", f"with {cores} cores, search threads would wait for each other's GIL"
    return "thread", f"a compiled game on at most {MOST_THREAD_CORES} cores"


def sizes(kind: Kind, pool: PoolSettings, server: ServerSettings, games: int, device: str, worlds: int = 1) -> Sizes:
    """Return how many workers of `kind` with how many games each are right for a run of `games` games.

    It is trees that fill batches, `worlds` of them a game. Never more games in flight than asked for; a worker without
    a game would be idle, so there are no more workers than games.
    """
    cores = usable_cores()
    lanes, on_gpu = lanes_of(server, device)
    # A batch in every lane (two on a GPU: one computes, one is on its way), one that waits, one that is searched.
    trees = ((2 if on_gpu else 1) * lanes + 2) * server.max_batch
    in_flight = min(games, -(-trees // worlds))
    fewest = max(_FEWEST_GAMES, -(-_FEWEST_TREES // worlds))
    threads = max(1, cores // 2) if on_gpu else 1
    workers = min(pool.workers or (threads if kind == "thread" else max(2, cores)), games)
    wanted = pool.games_per_worker or max(fewest, -(-in_flight // workers))
    groups = pool.groups or (1 if workers >= _CROWD * cores else _GROUPS)
    return Sizes(workers=workers, games=min(wanted, games), groups=groups)


def lanes_of(server: ServerSettings, device: str) -> tuple[int, bool]:
    """Return how many lanes the settings stand for on this machine, and whether they are on GPUs."""
    devices = len(gpus().devices) if device != "cpu" else 0
    return server.lanes or devices or usable_cores(), bool(devices)


def check_memory(game: Game, search: SearchSettings, chosen: Sizes) -> int:
    """Return the bytes of all forests of a pool; raises SettingError when they exceed the free memory."""
    each = -(-chosen.games // chosen.groups)
    total = chosen.workers * chosen.groups * forest_capacity(game, each, search).total_bytes
    free = free_memory_bytes()
    if total > free:
        raise SettingError.of(
            "games-per-worker",
            chosen.games,
            f"{chosen.workers} workers' trees would need {total / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free",
            "use fewer workers, games per worker, worlds or simulations",
        )
    return total


def check_requests(search: SearchSettings, server: ServerSettings, chosen: Sizes) -> None:
    """Raise SettingError when a group's rows do not fit into one request, or a worker's requests into its window."""
    if chosen.groups > server.max_window:
        limit = f"a worker may have {server.max_window} requests outstanding and would have {chosen.groups}"
        raise SettingError.of("groups", chosen.groups, limit, "use fewer --groups or a larger --max-window")
    rows = -(-chosen.games // chosen.groups) * search.rows
    if rows > server.max_request_rows:
        raise SettingError.of(
            "games-per-worker",
            chosen.games,
            f"a group may ask {server.max_request_rows} rows at once and would ask {rows}",
            "use more --groups, fewer games per worker or a larger --max-request-rows",
        )
