"""What `grove tune` may turn: the settings, the values worth trying on this machine, and the pool of a choice.

No setting changes what a search finds: simulations, worlds and leaves are not among them, a number format only where
`auto` found that it stays accurate, and the cache only where games are the same with and without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from grove.bench.limit.knobs import Knob
from grove.bench.limit.limit import LimitAsked, pool_plan
from grove.bench.sweep.points import check_processes
from grove.common.errors import SettingError
from grove.common.machine import free_memory_bytes, gpus, usable_cores
from grove.game import Game, load_game
from grove.mcts.kernels.cache import ENTRY
from grove.workers.pool.plan import PoolPlan
from grove.workers.pool.sizing import check_memory, lanes_of
from grove.workers.selfplay.evaluators import row_spec

KNOBS = ("pool", "workers", "games_per_worker", "groups", "max_batch", "max_delay_us", "lanes", "dtype", "cache")
MOST_THREADS_A_CORE = 4
"""Workers and lanes that compute on the same cores, by core; beyond it they only take turns."""
MEMORY_SHARE = 0.7
"""Part of the free memory that a trial's trees, cache and processes may take: other pools are warm beside it."""
CACHED_DECISIONS = (0, 1, 2, 4, 8, 16, 32)
"""Sizes of the cache in decisions of each game in flight: what its next decision asks again is in its last one."""
_GAMES = range(-5, 3)
"""Powers of two by which the games in flight may differ from the default's."""
_GROUPS = (1, 2, 4, 8)
_DELAYS_US = (0, 500, 2000, 5000, 20000)
_CPU_BATCHES, _CUDA_BATCHES = (64, 128, 256, 512, 1024), (256, 512, 1024, 2048, 4096)
_MOST_CACHE = 100_000_000


class Choice(NamedTuple):
    """One way to run the same games; everything else is as the user asked."""

    pool: str
    """`thread` or `process`."""
    workers: int
    games_per_worker: int
    groups: int
    max_batch: int
    max_delay_us: int
    lanes: int
    dtype: str
    cache: int
    """Entries a worker."""

    def __str__(self) -> str:
        workers = f"{self.workers} {self.pool if self.workers == 1 else _PLURALS[self.pool]}"
        groups = f"{self.groups} group{'s' * (self.groups != 1)}"
        lanes = f"{self.lanes} lane{'s' * (self.lanes != 1)}"
        cache = f", cache {self.cache:,}" if self.cache else ""
        batches = f"batches of {self.max_batch} within {self.max_delay_us / 1000:g} ms"
        return f"{workers} x {self.games_per_worker} games in {groups}, {batches}, {lanes}, {self.dtype}{cache}"

    def flags(self, other: Choice) -> str:
        """Return the flags that set what differs from `other`."""
        changed = [name for name in self._fields if getattr(self, name) != getattr(other, name)]
        return " ".join(f"--{name.replace('_', '-')} {getattr(self, name)}" for name in changed)


_PLURALS = {"thread": "threads", "process": "processes"}
Params = Mapping[str, Any]
"""Knob -> place in its ladder (or the value itself, of `pool` and `dtype`)."""


def parse_knobs(text: str) -> tuple[str, ...]:
    """Return the settings of a comma-separated list, all for ``all``. Raises SettingError for unknown ones, or none."""
    if text.strip() == "all":
        return KNOBS
    names = tuple(dict.fromkeys(part.strip().replace("-", "_") for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in KNOBS]
    if unknown or not names:
        limit = f"{unknown[0]!r} is not searched" if unknown else "it names nothing to search"
        raise SettingError.of("knobs", text, limit, f"choose from {', '.join(KNOBS)}, or all")
    return names


@dataclass(frozen=True, kw_only=True)
class Space:
    """The choices that may be tried."""

    asked: LimitAsked
    """The load and the settings of the default."""
    default: Choice
    ladders: Mapping[str, tuple[Any, ...]]
    """Knob -> the values to try, ascending; `games_per_worker` holds games in flight of all workers together, and
    `cache` decisions of each of them. Knobs that have one value only are left out."""
    on_cores: bool
    """Whether the network computes on the cores."""

    def params(self, **values: Any) -> dict[str, Any]:
        """Return the params of the default with some `values` (of the ladders); one that is none takes the nearest."""
        wanted = self._values_of(self.default) | values
        return {name: self._place(name, wanted[name]) for name in self.ladders}

    def choice(self, params: Params) -> Choice:
        """Return the choice of `params`, with everything derived.

        Raises:
            SettingError: it does not fit into memory, a request or the cores; nothing was started.
        """
        values = {name: self._value(name, params[name]) for name in self.ladders}
        choice = self._with(values)
        self._check(choice)
        return choice

    def plan(self, choice: Choice) -> PoolPlan:
        """Return the pool of a choice. Raises SettingError when it cannot work."""
        return pool_plan(_asked_for(self.asked, choice._asdict()))

    def _values_of(self, choice: Choice) -> dict[str, Any]:
        in_flight = choice.workers * choice.games_per_worker
        each = cached_by(self.asked, choice.games_per_worker)
        return choice._asdict() | {"games_per_worker": in_flight, "cache": choice.cache / each}

    def _place(self, name: str, value: Any) -> Any:
        ladder = self.ladders[name]
        if isinstance(ladder[0], str):
            return value if value in ladder else ladder[0]
        return min(range(len(ladder)), key=lambda i: abs(math.log((ladder[i] + 0.5) / (value + 0.5))))

    def _value(self, name: str, place: Any) -> Any:
        ladder = self.ladders[name]
        return place if isinstance(ladder[0], str) else ladder[place]

    def _with(self, values: Mapping[str, Any]) -> Choice:
        pool, server = self.asked.pool, self.asked.server
        base = {
            **{"pool": self.default.pool, "workers": pool.workers, "games_per_worker": pool.games_per_worker},
            **{"groups": pool.groups, "max_batch": server.max_batch, "max_delay_us": server.max_delay_us},
            **{"lanes": server.lanes, "dtype": self.default.dtype, "cache": self.asked.search.cache},
        }
        wanted = base | {name: value for name, value in values.items() if name not in ("games_per_worker", "cache")}
        if "games_per_worker" in values:
            workers = wanted["workers"] or settled(self.asked, wanted).workers
            wanted["games_per_worker"] = max(1, -(-values["games_per_worker"] // workers))
        found = settled(self.asked, wanted)
        if "cache" not in values:
            return found
        # Whole sets of four, as the cache itself rounds.
        entries = 4 * math.ceil(values["cache"] * cached_by(self.asked, found.games_per_worker) / 4)
        return found._replace(cache=min(entries, _MOST_CACHE))

    def _check(self, choice: Choice) -> None:
        plan = self.plan(choice)
        threads = choice.workers + (choice.lanes if self.on_cores else 0)
        most = MOST_THREADS_A_CORE * usable_cores()
        if threads > max(most, self.default.workers + (self.default.lanes if self.on_cores else 0)):
            limit = f"with {choice.lanes} lanes it is {threads} threads on {usable_cores()} cores"
            raise SettingError.of("workers", choice.workers, limit, f"{most} threads at most are tried")
        check_room(load_game(self.asked.game_spec), plan, choice)


def cached_by(asked: LimitAsked, games: int) -> int:
    """Return the evaluations of one decision of each of `games` games."""
    search = asked.search
    worlds = search.worlds if search.simulations_per == "world" else 1
    return games * worlds * (search.simulations + 1)


def check_room(game: Game, plan: PoolPlan, choice: Choice) -> None:
    """Raise SettingError when trees, caches and processes together do not fit into a share of the free memory."""
    if choice.pool == "process":
        check_processes("server-process", choice.workers)
    entry = ENTRY.itemsize + row_spec(game).row_bytes + 4 * (game.max_legal + game.num_players)
    trees = check_memory(game, plan.search, plan.sizes)
    needed, free = trees + choice.workers * choice.cache * entry, free_memory_bytes()
    if needed > MEMORY_SHARE * free:
        limit = f"trees and caches would take {needed / 2**30:.1f} GiB of the {free / 2**30:.1f} GiB that are free"
        raise SettingError.of("games-per-worker", choice.games_per_worker, limit, "use fewer games or a smaller cache")


def settled(asked: LimitAsked, wanted: Mapping[str, Any]) -> Choice:
    """Return the choice with workers, games, groups and lanes derived where `wanted` leaves them open (0)."""
    plan = pool_plan(_asked_for(asked, wanted))
    sizes = plan.sizes
    lanes = lanes_of(plan.server, plan.network.device)[0]
    derived = {"workers": sizes.workers, "games_per_worker": sizes.games, "groups": min(sizes.groups, sizes.games)}
    return Choice(**{**wanted, **derived, "lanes": lanes})


def _asked_for(asked: LimitAsked, wanted: Mapping[str, Any]) -> LimitAsked:
    pool = {name: wanted[name] for name in ("pool", "workers", "games_per_worker", "groups")}
    server = {name: wanted[name] for name in ("max_batch", "max_delay_us", "lanes")}
    return replace(
        asked,
        pool=replace(asked.pool, **pool),
        server=replace(asked.server, **server),
        network=replace(asked.network, dtype=wanted["dtype"]),
        search=replace(asked.search, cache=wanted["cache"]),
    )


def make_space(
    asked: LimitAsked, default: Choice, knobs: Sequence[str], found: Mapping[str, Any], knob: Knob | None = None
) -> Space:
    """Return the values worth trying of `knobs`.

    `found` is what the network alone gave (`Peak.found`), `knob` the one that the limit of the default would turn.
    Raises SettingError when no setting has more than one value here.
    """
    on_cores = str(found["backend"]["device"]).startswith("cpu")
    ladders = {name: _ladder(name, asked, default, found, on_cores) for name in knobs}
    for name, value in (advised(asked, default, knob) if knob else {}).items():
        if name in ladders and value not in ladders[name]:
            ladders[name] = tuple(sorted((*ladders[name], value)))
    ladders = {name: ladder for name, ladder in ladders.items() if len(ladder) > 1}
    if not ladders:
        limit = "none of them has more than one value here"
        raise SettingError.of("knobs", ",".join(knobs), limit, "search more of them")
    return Space(asked=asked, default=default, ladders=ladders, on_cores=on_cores)


def advised(asked: LimitAsked, default: Choice, knob: Knob) -> dict[str, Any]:
    """Return what `knob` turns as values of the ladders, games in flight being those of all workers together.

    More or fewer workers share the games in flight where the user left the games of a worker open.
    """
    turned = dict(knob.turned)
    if "games_per_worker" in turned or (asked.pool.games_per_worker and "workers" in turned):
        games = turned.get("games_per_worker", default.games_per_worker)
        turned["games_per_worker"] = turned.get("workers", default.workers) * games
    return turned


def _ladder(name: str, asked: LimitAsked, default: Choice, found: Mapping[str, Any], on_cores: bool) -> tuple[Any, ...]:
    cores, devices = usable_cores(), max(len(gpus().devices), 1)
    in_flight = default.workers * default.games_per_worker
    numbers: dict[str, Sequence[float]] = {
        "workers": [1, 2, max(1, cores // 2), *_doublings(1, MOST_THREADS_A_CORE * cores), default.workers],
        "games_per_worker": [max(1, round(in_flight * 2.0**power)) for power in _GAMES],
        "groups": [*_GROUPS, default.groups],
        "max_batch": [*(_CPU_BATCHES if on_cores else _CUDA_BATCHES), default.max_batch, found["bucket"]],
        "max_delay_us": [*_DELAYS_US, default.max_delay_us],
        "lanes": [*(_doublings(1, cores) if on_cores else (devices, 2 * devices)), default.lanes, found["lanes"]],
        "cache": _cache_ladder(asked, default),
    }
    if name == "pool":
        return ("thread", "process") if load_game(asked.game_spec).compiled else (default.pool,)
    if name == "dtype":
        return tuple(dict.fromkeys((default.dtype, "fp32"))) if asked.network.dtype == "auto" else (default.dtype,)
    return tuple(sorted(set(numbers[name])))


def _cache_ladder(asked: LimitAsked, default: Choice) -> Sequence[float]:
    now = default.cache / cached_by(asked, default.games_per_worker)
    # With several leaves a tree the cache changes which of them wait, and with them the games.
    return (*CACHED_DECISIONS, now) if asked.search.leaves == 1 else (now,)


def _doublings(low: int, high: int) -> list[int]:
    return [*(low << power for power in range(high.bit_length()) if low << power < high), high]
