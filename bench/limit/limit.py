"""The roofline of self-play: every part alone, then the whole, in interleaved slices of one run.

Each part sits warm and paused in processes of its own; a round gives one slice to each, and figures are medians over
the rounds, so that a machine that changes its speed changes all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from grove.bench.core.compare import PROBE_S
from grove.bench.core.peak import Peak, PeakJob
from grove.bench.core.probe import MOVED, burn_probe
from grove.bench.core.rounds import Probed, quiet_rounds, usual_probe
from grove.bench.core.slices import WarmPool
from grove.bench.core.stage import Stage
from grove.bench.limit.bounds import LimitFigures
from grove.bench.limit.wire import MOST_CLIENTS, Wire, WireClient, WireServer
from grove.bench.limit.worker import WorkerAlone
from grove.common.errors import PoolError
from grove.common.machine import usable_cores
from grove.common.usage import CoreSeconds, core_seconds
from grove.game import load_game
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.pool.plan import PoolPlan
from grove.workers.pool.settings import PoolSettings
from grove.workers.pool.sizing import check_memory, check_requests, pool_kind, sizes
from grove.workers.selfplay.evaluators import row_spec

ROUNDS = 3
"""Rounds to count. Those beside which the machine changed its speed are dropped and played again, as many at most."""
PARTS = ("network", "search", "wire", "writer", "whole")
SHORTEST_S = 0.2
_PLENTY = 1 << 30
"""Games to size the pool for: a measurement ends by the clock."""

Say = Callable[[str], None]
Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class LimitAsked:
    """What the user asked to find the limit of; resolved settings."""

    game_spec: str
    seconds: float
    """Seconds of measuring, over all parts; starting and warming them comes on top."""
    out: Path
    """Folder of the results; games of the whole and the writer's file go below it."""
    seed: int
    search: SearchSettings
    pool: PoolSettings
    network: NetworkSettings
    server: ServerSettings


@dataclass(frozen=True)
class LimitRound(Probed):
    """One slice of every part."""

    parts: dict[str, Row]
    """Part -> what its slice gave."""


def counted(rounds: Sequence[LimitRound]) -> list[LimitRound]:
    """Return the rounds whose burn probes did not move; all when there is none."""
    return quiet_rounds(rounds, MOVED) or list(rounds)


@dataclass(frozen=True, kw_only=True)
class LimitFound:
    """What was measured."""

    measured: LimitFigures
    network: Mapping[str, Any]
    """The grid of the network: see `Peak.found`."""
    backend: Mapping[str, Any]
    rounds: list[LimitRound]
    """All of them, those that do not count too."""
    slice_s: float
    pool_kind: str

    @property
    def counted(self) -> list[LimitRound]:
        """The rounds that the figures rest on."""
        return counted(self.rounds)

    @property
    def moved(self) -> float:
        """How far the burn probes moved from their median, relative."""
        usual = usual_probe(self.rounds)
        return max(done.moved(usual) for done in self.rounds)


def run_limit(asked: LimitAsked, say: Say) -> LimitFound:
    """Measure every part and the whole; every process has ended by then.

    Raises:
        SettingError: the pool does not fit into memory or its groups into one request.
        GroveError: the network cannot be run, or a part failed.
    """
    plan = pool_plan(asked)
    with network_alone(asked, say) as peak:
        return run_beside(asked, plan, peak, say)


@contextmanager
def network_alone(asked: LimitAsked, say: Say) -> Iterator[Peak]:
    """Measure the grid of the network alone and yield its process, paused.

    Raises:
        GroveError: the network cannot be run.
    """
    job = PeakJob(
        row_spec=row_spec(load_game(asked.game_spec)),
        network=asked.network,
        max_batch=asked.server.max_batch,
        thorough=True,
    )
    with Peak(job) as peak:
        peak.wait_ready()
        found, backend = peak.found, peak.found["backend"]
        best = f"{found['lanes']} lanes of {found['bucket']} rows"
        say(f"the network alone is fastest with {best}, {backend['dtype']} {backend['kind']} on {backend['device']}")
        yield peak


def pool_plan(asked: LimitAsked) -> PoolPlan:
    """Return the pool of the whole. Raises SettingError when it cannot work."""
    game = load_game(asked.game_spec)
    kind, _ = pool_kind(asked.pool, game)
    chosen = sizes(kind, asked.pool, asked.server, _PLENTY, asked.network.device, asked.search.worlds)
    check_memory(game, asked.search, chosen)
    check_requests(asked.search, asked.server, chosen)
    return PoolPlan(
        game_spec=asked.game_spec,
        run_seed=asked.seed,
        games_folder=asked.out / "games",
        search=asked.search,
        network=asked.network,
        server=asked.server,
        evaluator="server",
        pool=kind,
        sizes=chosen,
        stagger=True,
    )


def run_beside(asked: LimitAsked, plan: PoolPlan, peak: Peak, say: Say) -> LimitFound:
    """Start the whole and measure everything beside a peak that is ready."""
    # The number format was decided by the peak; the whole must not decide otherwise.
    plan = replace(plan, network=replace(plan.network, dtype=peak.found["backend"]["dtype"]))
    with WarmPool("the whole", plan) as whole:
        whole.start()
        chosen, kind = whole.pool.sizes, whole.pool.pool_kind
        say(f"the whole: {chosen.workers} {kind} workers x {chosen.games} games in {chosen.groups} groups")
        return measure_beside(asked, peak, whole, ROUNDS, say)


def measure_beside(asked: LimitAsked, peak: Peak, whole: WarmPool, rounds: int, say: Say) -> LimitFound:
    """Start the other parts and measure all of them beside a peak and a whole that are warm, over `rounds` rounds.

    Raises:
        PoolError: a part failed or evaluated nothing.
    """
    plan = whole.pool.plan
    with ExitStack() as stack:
        worker = stack.enter_context(_start_worker(plan, whole))
        wire = stack.enter_context(_start_wire(plan, whole))
        worker.wait_ready()
        return _Bench(asked, peak, worker, wire, whole).run(rounds, say)


def _start_worker(plan: PoolPlan, whole: WarmPool) -> Stage:
    chosen = whole.pool.sizes
    job = WorkerAlone(
        game_spec=plan.game_spec,
        run_seed=plan.run_seed + 1,
        search=plan.search,
        games=chosen.games,
        groups=chosen.groups,
        log_path=str(plan.games_folder.parent / "writer.tmp"),
    )
    return Stage("search", job, plan.game_spec)


def _start_wire(plan: PoolPlan, whole: WarmPool) -> Wire:
    chosen = whole.pool.sizes
    client = WireClient(
        game_spec=plan.game_spec,
        search=plan.search,
        endpoint="",
        games=-(-chosen.games // chosen.groups),
        groups=min(chosen.groups, chosen.games),
    )
    server = WireServer(row_spec=row_spec(load_game(plan.game_spec)), settings=plan.server)
    return Wire(server, client, min(chosen.workers, MOST_CLIENTS))


class _Bench:
    """All parts, warm and paused."""

    def __init__(self, asked: LimitAsked, peak: Peak, worker: Stage, wire: Wire, whole: WarmPool) -> None:
        self._asked, self._peak, self._worker, self._wire, self._whole = asked, peak, worker, wire, whole

    def run(self, wanted: int, say: Say) -> LimitFound:
        """Play rounds until `wanted` of them count, twice as many at most, and return what they gave."""
        slice_s = max(self._asked.seconds / (wanted * len(PARTS)), SHORTEST_S)
        say(f"{wanted} rounds of {slice_s:.1f} s a part")
        rounds: list[LimitRound] = []
        probe = burn_probe(PROBE_S)
        while len(rounds) < wanted or (len(quiet_rounds(rounds, MOVED)) < wanted and len(rounds) < 2 * wanted):
            before, parts = probe, self._round(len(rounds), slice_s)
            probe = burn_probe(PROBE_S)
            rounds.append(LimitRound((before, probe), parts))
            self._count_written([done.parts for done in rounds])
            rates = ", ".join(f"{part} {parts[part]['rate']:,.0f}" for part in PARTS)
            say(f"round {len(rounds)}, {len(quiet_rounds(rounds, MOVED))} of {wanted} count: {rates} evaluations/s")
        return LimitFound(
            measured=self._measured([done.parts for done in counted(rounds)]),
            network=self._peak.found,
            backend=self._whole.pool.server_ready["backend"],
            rounds=rounds,
            slice_s=slice_s,
            pool_kind=self._whole.pool.pool_kind,
        )

    def _round(self, number: int, seconds: float) -> dict[str, Row]:
        """Give every part its slice, beginning at another one each round."""
        measure = {
            "network": self._play_network,
            "search": self._play_search,
            "wire": self._play_wire,
            "writer": self._play_writer,
            "whole": self._play_whole,
        }
        found: dict[str, Row] = {}
        first = number % len(PARTS)
        for part in PARTS[first:] + PARTS[:first]:
            found[part] = measure[part](seconds)
            self._whole.look_after()
        return found

    def _count_written(self, rounds: list[dict[str, Row]]) -> None:
        """Turn what was written into evaluations: a decision costs those of the search alone, over all its slices.

        Those of one slice would not do: trees whose roots were set together are decided together.
        """
        searched = [found["search"] for found in rounds]
        decisions = sum(row["decisions"] for row in searched)
        settings = self._asked.search
        each = sum(row["evaluations"] for row in searched) / decisions if decisions else float(settings.simulations)
        for found in rounds:
            found["writer"]["rate"] = found["writer"]["decisions_per_second"] * each
            found["writer"]["cpu"] = found["writer"]["cpu_per_decision"] / each

    def _play_network(self, seconds: float) -> Row:
        rate, cpu = self._peak.measure(seconds)
        return {"rate": rate, "cpu": cpu}

    def _play_search(self, seconds: float) -> Row:
        done = self._worker.measure("search", seconds)
        rows = _some(done["evaluations"], "the search alone", seconds)
        return {
            "rate": rows / done["seconds"],
            "cpu": done["cpu_seconds"] / rows,
            "evaluations": rows,
            "decisions": done["decisions"],
        }

    def _play_wire(self, seconds: float) -> Row:
        done = self._wire.measure(seconds)
        return {
            "rate": done["rows_per_second"],
            "messages_per_second": done["messages_per_second"],
            "cpu": done["cpu_seconds"],
        }

    def _play_writer(self, seconds: float) -> Row:
        done = self._worker.measure("write", seconds)
        took = max(done["seconds"], 1e-9)
        return {
            "games_per_second": done["games"] / took,
            "decisions_per_second": done["decisions"] / took,
            "cpu_per_decision": done["cpu_seconds"] / max(done["decisions"], 1),
            "megabytes_per_second": done["bytes"] / took / 1e6,
        }

    def _play_whole(self, seconds: float) -> Row:
        before = core_seconds()
        done = self._whole.play(seconds)
        after = core_seconds()
        rows = _some(done.workers.get("evaluations", 0), "the whole", seconds)
        server, count = done.server, self._whole.pool.sizes.workers
        _some(server.get("batches", 0), "the server of the whole", seconds)
        lanes = [lane["busy_s"] / done.seconds for lane in server["lanes"]]
        return {
            "rate": rows / done.seconds,
            "cpu": done.cpu_seconds / rows,
            **_idle_cores(before, after, done.seconds),
            "waiting": min(done.workers["waited_s"] / (count * done.seconds), 1.0),
            "lane_idle": max(0.0, 1 - mean(lanes)),
            "batch_rows": server["rows"] / server["batches"],
            "fill": server["rows"] / server["bucket_rows"],
        }

    def _measured(self, rounds: list[dict[str, Row]]) -> LimitFigures:
        """Return the medians over the rounds."""
        median_of_rounds = partial(median_of, rounds)
        found, pool = self._peak.found, self._whole.pool
        chosen, game = pool.sizes, load_game(pool.plan.game_spec)
        on_cores = str(found["backend"]["device"]).startswith("cpu")
        lanes = min(int(found["lanes"]), usable_cores())
        written = [found for found in rounds if found["writer"]["rate"]]
        return LimitFigures(
            cores=usable_cores(),
            workers=chosen.workers,
            games_per_worker=chosen.games,
            groups=min(chosen.groups, chosen.games),
            lanes=int(pool.server_ready["lanes"]),
            max_batch=pool.plan.server.max_batch,
            threads=pool.pool_kind == "thread",
            compiled=game.compiled,
            network_on_cores=on_cores,
            network_rate=max(
                median_of_rounds("network", "rate"), lanes / median_of_rounds("network", "cpu") if on_cores else 0.0
            ),
            network_cpu=median_of_rounds("network", "cpu"),
            ladder={int(rows): rate for rows, rate in found["ladder"]},
            tried=tuple((t["lanes"], t["bucket"], _quiet_rate(t, on_cores)) for t in found["tried"]),
            search_rate=median_of_rounds("search", "rate"),
            search_cpu=median_of_rounds("search", "cpu"),
            wire_rate=median_of_rounds("wire", "rate"),
            wire_cpu=median_of_rounds("wire", "cpu"),
            wire_rows=self._wire.rows,
            writer_rate=median(found["writer"]["rate"] for found in written) if written else None,
            writer_cpu=median_of_rounds("writer", "cpu"),
            whole_rate=median_of_rounds("whole", "rate"),
            whole_cpu=median_of_rounds("whole", "cpu"),
            idle_cores=median_of_rounds("whole", "idle_cores") if "idle_cores" in rounds[0]["whole"] else None,
            waiting=median_of_rounds("whole", "waiting"),
            lane_idle=median_of_rounds("whole", "lane_idle"),
            batch_rows=median_of_rounds("whole", "batch_rows"),
            fill=median_of_rounds("whole", "fill"),
        )


def _quiet_rate(tried: Mapping[str, float], on_cores: bool) -> float:
    """Return rows/s of a candidate: on cores by its processor time, as if no other program had used them."""
    if not on_cores:
        return tried["rows_per_second"]
    return min(tried["lanes"], usable_cores()) / tried["cpu_us"] * 1e6


def median_of(rounds: Sequence[Mapping[str, Row]], part: str, key: str) -> float:
    """Return the median over the rounds of one figure of one part."""
    return median(found[part][key] for found in rounds)


def _idle_cores(before: CoreSeconds | None, after: CoreSeconds | None, seconds: float) -> Row:
    """Return the usable cores that were idle in between; nothing where that is not known."""
    if before is None or after is None:
        return {}
    return {"idle_cores": min((after.idle - before.idle) / seconds, float(usable_cores()))}


def _some(rows: float, who: str, seconds: float) -> float:
    """Return `rows`. Raises PoolError when there are none, which no rate can rest on."""
    if not rows:
        raise PoolError(f"{who} evaluated nothing in a slice of {seconds:.1f} s; use more --seconds")
    return rows
