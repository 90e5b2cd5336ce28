"""The modes of a comparison and the pools that play them, each with its best fair chance.

direct          a network in every worker, one position a call: the baseline. Its variants (eager, compiled, compiled
                with the C++ wrapper, at one process a core and at the pool's worker count, on the CPU and on CUDA
                where there is one) are tried briefly; the fastest is the baseline, all are shown.
local           a network in every worker, which evaluates the worker's own batch; one process a core
server-thread   search threads beside the lanes, in the server's process
server-process  search processes and one server

The designs that the origin tried and gave up, kept as evidence (group `failed`):

python-threads  search threads beside the lanes over the same rules as a plain Python game, which holds the GIL
one-position    processes that play one game each and wait for the answer to each position: one position a message (one
                of every world where the search draws worlds). As many as the origin had, `ORIGIN_WORKERS`
always-waited   `server-process` with a batching window that is always waited out in full

Rules of other programs in place of ours, all else being `server-process` (group `fixed`, bench/core/rules.py):
full-only, time-out-only, drain, 1ms, adaptive-wait. Worker processes, because threads hide the rule: with one thread
beside the lanes there is one client, and "every client waits" is then the only event that any rule could act on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from grove.bench.core.python_game import python_spec
from grove.bench.core.rules import AdaptiveWait, AlwaysWaited, Drain, FullOnly, OneMillisecond, TimeOutOnly
from grove.common.errors import SettingError
from grove.common.machine import free_memory_bytes, gpus, usable_cores
from grove.game import load_game
from grove.inference_server import ServerSettings
from grove.inference_server.backends.toolchain import compiler_fault
from grove.inference_server.batching.policy import PolicyKind
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.pool.plan import Kind, PoolPlan, Sizes
from grove.workers.pool.settings import PoolSettings
from grove.workers.pool.sizing import check_memory, check_requests, sizes

FIXED: dict[str, PolicyKind] = {
    "full-only": FullOnly,
    "time-out-only": TimeOutOnly,
    "drain": Drain,
    "1ms": OneMillisecond,
    "adaptive-wait": AdaptiveWait,
}
FAILED = ("python-threads", "one-position", "always-waited")
MODES = ("direct", "local", "server-thread", "server-process", *FAILED, *FIXED)
GROUPS = {"failed": FAILED, "fixed": tuple(FIXED), "all": MODES}
"""Names that stand for several modes."""
ORIGIN_WORKERS = 32
"""Worker processes of `one-position` unless asked for: those of the origin's runs."""
DIRECT_GAMES = 16
"""Games of a direct worker, in one group. One game at a time is 40 % slower, because every row then pays for the
search's calls alone; 16 are about 3 % slower than 64, of which few would end within a measurement."""
PYTHON_GAMES = 64
"""Games of a search thread over a Python game: their positions fit into the adapter's cache of live objects."""
_PLENTY = 1 << 30
"""Games to size the pools for: a comparison ends by the clock."""

Compile = Literal["eager", "compiled", "cpp_wrapper"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asked to compare; resolved settings."""

    game_spec: str
    modes: tuple[str, ...]
    seconds: float
    """Seconds of measuring, over all modes."""
    out: Path
    """Folder of the results; the modes' games go below `out`/games."""
    seed: int
    search: SearchSettings
    pool: PoolSettings
    network: NetworkSettings
    server: ServerSettings
    probe_limit: float
    """Relative change of the burn probe from which a round is dropped."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run `direct`."""

    name: str
    plan: PoolPlan
    fault: str = ""
    """Why it cannot run on this machine; empty when it can."""


def parse_modes(text: str) -> tuple[str, ...]:
    """Return the modes of a comma-separated list, groups resolved, each once.

    Raises SettingError for unknown ones, or none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    modes = tuple(dict.fromkeys(mode for part in parts for mode in GROUPS.get(part, (part,))))
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise SettingError.of(
            "modes",
            text,
            f"{unknown[0]!r} is no mode" if unknown else "it names no mode",
            f"choose from {', '.join(MODES)}, or a group: {', '.join(GROUPS)}",
        )
    return modes


def pool_plans(asked: Asked) -> dict[str, PoolPlan]:
    """Return the pools of all modes asked for but `direct` and those that do not suit the game.

    Raises SettingError when one of them cannot work, or when together, all being warm at once, they do not fit into
    memory.
    """
    plans = {mode: pool_plan(asked, mode) for mode in asked.modes if mode != "direct" and not unsuited(asked, mode)}
    total, free = sum(map(trees_bytes, plans.values())), free_memory_bytes()
    if total > free:
        limit = f"their trees need {total / 2**30:.1f} GiB at once and {free / 2**30:.1f} GiB are free"
        raise SettingError.of("modes", ",".join(asked.modes), limit, "use fewer modes, or fewer --games-per-worker")
    return plans


def trees_bytes(plan: PoolPlan) -> int:
    """Return the bytes of all trees of a pool."""
    return check_memory(load_game(plan.game_spec), plan.search, plan.sizes)


def unsuited(asked: Asked, mode: str) -> str:
    """Return why the game cannot be played in `mode`; empty when it can."""
    if mode == "python-threads" and load_game(asked.game_spec).hidden_information:
        return "a plain Python game cannot hide information, and this game does"
    return ""


def pool_plan(asked: Asked, mode: str) -> PoolPlan:
    """Return the pool of one mode other than `direct`.

    Raises SettingError when its trees do not fit into memory or its groups into one request.
    """
    if mode == "local":
        # One group: nothing is away while a worker computes its own batch, so a second group would only halve it.
        games = asked.pool.games_per_worker or -(-asked.server.max_batch // asked.search.worlds)
        return _plan(asked, mode, "local", Sizes(workers=usable_cores(), games=games, groups=1))
    if mode == "one-position":
        alone = Sizes(workers=asked.pool.workers or ORIGIN_WORKERS, games=1, groups=1)
        return _plan(asked, mode, "server", alone)
    if mode == "python-threads":
        return _python_threads(asked)
    plan = _plan(asked, mode, "server", _sizes(asked, "thread" if mode == "server-thread" else "process"))
    return replace(plan, policy=AlwaysWaited if mode == "always-waited" else FIXED.get(mode, plan.policy))


def _sizes(asked: Asked, kind: Kind) -> Sizes:
    return sizes(kind, asked.pool, asked.server, _PLENTY, asked.network.device, asked.search.worlds)


def _python_threads(asked: Asked) -> PoolPlan:
    """Return search threads over the game as a plain Python one; what is one already is taken as it is."""
    compiled = load_game(asked.game_spec).compiled
    spec = python_spec(asked.game_spec) if compiled else asked.game_spec
    games = asked.pool.games_per_worker or PYTHON_GAMES
    chosen = replace(_sizes(asked, "process"), games=games)
    return replace(_plan(replace(asked, game_spec=spec), "python-threads", "server", chosen), pool="thread")


def direct_kinds(asked: Asked) -> list[Variant]:
    """Return the ways to run one direct process a core."""
    fault = compiler_fault()
    per_core = Sizes(workers=usable_cores(), games=DIRECT_GAMES, groups=1)
    kinds: tuple[tuple[str, Compile, str], ...] = (
        ("direct-eager", "eager", ""),
        ("direct-compiled", "compiled", fault),
        ("direct-cpp-wrapper", "cpp_wrapper", fault),
    )
    on_gpu = asked.network.device != "cpu" and bool(gpus().devices)
    on_cpu = replace(asked, network=replace(asked.network, device="cpu"))
    variants = []
    if asked.network.device != "cuda":
        variants = [
            Variant(name=name, plan=replace(_plan(on_cpu, name, "direct", per_core), direct_compile=how),
                    fault=why)
            for name, how, why in kinds
        ]  # fmt: skip
    if on_gpu:
        on_cuda = replace(asked, network=replace(asked.network, device="cuda"))
        variants.append(Variant(name="direct-cuda", plan=_plan(on_cuda, "direct-cuda", "direct", per_core)))
    return variants


def direct_at_pool_workers(asked: Asked, fastest: Variant) -> Variant | None:
    """Return the fastest kind at the process pool's worker count; None when that is one process a core anyway."""
    workers = _sizes(asked, "process").workers
    if workers == fastest.plan.sizes.workers:
        return None
    name = f"{fastest.name}-{workers}-workers"
    sized = Sizes(workers=workers, games=fastest.plan.sizes.games, groups=1)
    return Variant(name=name, plan=replace(fastest.plan, sizes=sized, games_folder=asked.out / "games" / name))


def _plan(asked: Asked, name: str, evaluator: str, chosen: Sizes) -> PoolPlan:
    check_memory(load_game(asked.game_spec), asked.search, chosen)
    if evaluator == "server":
        check_requests(asked.search, asked.server, chosen)
    return PoolPlan(
        game_spec=asked.game_spec,
        run_seed=asked.seed,
        games_folder=asked.out / "games" / name,
        search=asked.search,
        network=asked.network,
        server=asked.server,
        evaluator=evaluator,
        pool="thread" if name == "server-thread" else "process",
        sizes=chosen,
        stagger=True,
    )
