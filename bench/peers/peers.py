"""Grove beside other projects: the same game, network and simulations a move, in interleaved slices of one run.

Players are compared by simulations a second: Grove's pools, mctx + pgx, OpenSpiel's MCTS in Python. Generic batching
servers are compared by rows a second behind the same clients. A peer that cannot run here is listed with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from statistics import fmean
from typing import Any

from grove.bench.core.compare import Say, play_round, slice_length, start_peak
from grove.bench.core.estimate import Played
from grove.bench.core.modes import Asked, pool_plan
from grove.bench.core.peak import Peak
from grove.bench.core.rounds import Round, mean_others
from grove.bench.core.slices import WARM_S, Contender, Slice, WarmPool, cpu_seconds
from grove.bench.core.stage import Stage
from grove.bench.peers.batchers import SERVERS, WAIT_MS, Batcher, ClientJob, GroveServer, HttpServer
from grove.bench.peers.mctx import PGX_GAMES, MctxJob, choose_batch
from grove.bench.peers.network import Export, PeerNetwork
from grove.bench.peers.open_spiel import OpenSpielJob
from grove.common.errors import PoolError, SettingError
from grove.common.machine import usable_cores
from grove.game import load_game
from grove.workers.selfplay.evaluators import row_spec

PEERS = ("mctx", "open_spiel", "mosec", "litserve")
MODULES = {"mctx": ("jax", "mctx", "pgx"), "open_spiel": ("pyspiel",), "mosec": ("mosec",), "litserve": ("litserve",)}
"""What must be importable; the extra `peers` holds all of it."""
GROVE = ("server-thread", "server-process", "server-thread-cache")
"""Grove's players; the last one remembers evaluations, as OpenSpiel's does. Its games are the same as without."""
CACHE = 1 << 20
"""Evaluations that it remembers, 132 bytes each: enough that those of a game live until its next moves."""
CACHE_WARM_S = 30.0
"""Seconds that it plays first: until its cache is full and its games mixed, far more positions are found in it."""
MOST_GAMES = 512
"""Largest batch of games that mctx tries in each process."""
MESSAGE_ROWS = (1, 16)
"""Rows of a client's message: one position a request, and as many as make a batch of 512 of 32 clients."""
BATCHERS_SHARE = 0.25
"""Part of the measuring time that the servers behind clients get."""
_READY_S = 600.0
"""Longest wait for a peer to be ready: JAX compiles a search for every size it tries."""


@dataclass(frozen=True, kw_only=True)
class PeersAsked:
    """What the user asked to compare with; resolved settings."""

    asked: Asked
    peers: tuple[str, ...]
    clients: int
    """Closed-loop clients of the batching servers."""


@dataclass
class PeersOutcome:
    """What was found; every process has ended."""

    network: PeerNetwork
    players: list[Round] = field(default_factory=list)
    batchers: list[Round] = field(default_factory=list)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Contender -> what it said when it was ready: batch, number format, what it tried."""
    pools: dict[str, WarmPool] = field(default_factory=dict)
    """Grove's players, stopped."""
    played: dict[str, Played] = field(default_factory=dict)
    """What these did in their whole lives."""
    not_measured: dict[str, str] = field(default_factory=dict)
    peak: dict[str, Any] = field(default_factory=dict)
    slice_s: dict[str, float] = field(default_factory=dict)
    """Seconds of a slice of `players` and `batchers`."""

    @property
    def idle_cpu(self) -> float:
        """Processors that all paused processes together used during the slices of others."""
        return fmean(done.idle_cpu for done in [*self.players, *self.batchers])

    @property
    def others_cpu(self) -> float | None:
        """Processors that programs other than this comparison used meanwhile; None where a CPU quota hides it."""
        return mean_others([*self.players, *self.batchers])


def parse_peers(text: str) -> tuple[str, ...]:
    """Return the peers of a comma-separated list, each once. Raises SettingError for unknown ones, or none."""
    peers = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown or not peers:
        fault = f"{unknown[0]!r} is no peer" if unknown else "it names no peer"
        raise SettingError.of("peers", text, fault, f"choose from {', '.join(PEERS)}")
    return peers


def check_game(game_spec: str) -> None:
    """Raise SettingError for a game that the peers do not know."""
    if game_spec not in PGX_GAMES:
        limit = "the peers are set up for " + ", ".join(PGX_GAMES)
        raise SettingError.of("game", game_spec, limit, "use --game connect_four")


def missing(peers: Sequence[str]) -> dict[str, str]:
    """Return peer -> why it cannot run, of those that cannot."""
    found = {}
    for peer in peers:
        absent = [module for module in MODULES.get(peer, ()) if find_spec(module) is None]
        if absent:
            found[peer] = f"{', '.join(absent)} is not installed; install Grove with the extra `peers`"
    return found


def run_peers(wanted: PeersAsked, say: Say) -> PeersOutcome:
    """Measure all players and batching servers; every process has ended by then.

    Raises GroveError when Grove's own modes cannot be measured, or a peer died while it was.
    """
    network = export_network(wanted.asked)
    say(f"network: {network.parameters:,} parameters, the same weights for all")
    outcome = PeersOutcome(network=network, not_measured=missing(wanted.peers))
    for peer, why in outcome.not_measured.items():
        say(f"{peer}: not measured; {why}")
    asked = replace(wanted.asked, network=replace(wanted.asked.network, model=network.model))
    wanted = replace(
        wanted, asked=asked, peers=tuple(peer for peer in wanted.peers if peer not in outcome.not_measured)
    )
    servers = [name for name in SERVERS if name == "grove" or name in wanted.peers]
    share = BATCHERS_SHARE if len(servers) > 1 else 0.0
    with start_peak(asked, say) as peak:
        outcome.peak = peak.found
        dtype = peak.found["backend"]["dtype"]  # found best, for all that run Grove's backend
        same = replace(wanted, asked=replace(asked, network=replace(asked.network, dtype=dtype)))
        with ExitStack() as stack:
            _play(_players(same, outcome, stack, say), peak, asked.seconds * (1 - share), outcome.players, say)
            outcome.played = {name: Played.by(pool) for name, pool in outcome.pools.items()}
    if share:
        with ExitStack() as stack:
            found = _batchers(same, servers, outcome, stack, say)
            _play(found, None, asked.seconds * share, outcome.batchers, say)
    outcome.slice_s = {"players": _length(outcome.players), "batchers": _length(outcome.batchers)}
    return outcome


def export_network(asked: Asked) -> PeerNetwork:
    """Write the network's model file, and rows with its answers, into the folder of the results."""
    job = Export(row_spec=row_spec(load_game(asked.game_spec)), network=asked.network, folder=str(asked.out))
    with Stage("network", job, asked.game_spec) as stage:
        return PeerNetwork(**stage.wait_ready())


# -- players -----------------------------------------------------------------------------------------------------------


class Peer:
    """The processes of one player of another project."""

    def __init__(self, name: str, stages: Sequence[Stage], what: str = "play") -> None:
        """`what`: what its processes are told to do in a slice."""
        self.name, self._stages, self._what = name, stages, what
        self.processes = [number for stage in stages for number in stage.processes]

    def play(self, seconds: float) -> Slice:
        """Play one slice.

        A process ends with a whole move of all its games, so they end at different times; the slice lasts as long as
        the mean of them, which is to the peer's favour.
        """
        used = cpu_seconds(self.processes)
        for stage in self._stages:
            stage.begin(self._what, seconds)
        done = [stage.end(seconds) for stage in self._stages]
        counts = {name: sum(part[name] for part in done) for name in done[0] if name != "seconds"}
        took = sum(part["seconds"] for part in done) / len(done)
        return Slice(took, counts, {}, cpu_seconds(self.processes) - used)

    def look_after(self) -> None:
        """Its processes say nothing between slices."""


def _players(wanted: PeersAsked, outcome: PeersOutcome, stack: ExitStack, say: Say) -> dict[str, Contender]:
    """Start Grove's pools and the peers, one after the other, and return those that are warm."""
    asked, found = wanted.asked, dict[str, Contender]()
    for name in GROVE:
        plan = pool_plan(grove_asked(asked, name), name.removesuffix("-cache"))
        pool = stack.enter_context(WarmPool(name, replace(plan, games_folder=asked.out / "games" / name)))
        pool.start()
        if plan.search.cache:
            pool.play(CACHE_WARM_S)
        chosen = pool.pool.sizes
        say(f"{name}: warm; {chosen}")
        outcome.about[name] = {"workers": chosen.workers, "games": chosen.games, "groups": chosen.groups}
        outcome.pools[name] = found[name] = pool
    for name, jobs in peer_jobs(wanted, outcome.network).items():
        stages = _started(name, jobs, wanted, outcome, stack)
        if stages:
            found[name] = _warmed(name, stages, outcome)
            say(f"{name}: warm; {len(stages)} processes; {outcome.about[name]}")
        else:
            say(f"{name}: not measured; {outcome.not_measured[name]}")
    return found


def _warmed(name: str, stages: Sequence[Stage], outcome: PeersOutcome) -> Peer:
    """Return the player after its first slice; mctx finds its batch first."""
    if name == "mctx":
        what, tried = choose_batch(stages, MOST_GAMES)
        outcome.about[name] |= {"batch": what, "tried": tried}
        peer = Peer(name, stages, what)
    else:
        peer = Peer(name, stages)
    peer.play(WARM_S)
    return peer


def grove_asked(asked: Asked, name: str) -> Asked:
    """Return what is asked of one of Grove's players."""
    return replace(asked, search=replace(asked.search, cache=CACHE)) if name.endswith("-cache") else asked


def peer_jobs(wanted: PeersAsked, network: PeerNetwork) -> dict[str, list[Any]]:
    """Return the jobs of the players of other projects, one process a core."""
    asked, jobs = wanted.asked, dict[str, list[Any]]()
    spec, cores = row_spec(load_game(asked.game_spec)), core_ids()
    same: dict[str, Any] = {"network": network, "search": asked.search}
    if "mctx" in wanted.peers:
        jobs["mctx"] = [
            MctxJob(game_spec=asked.game_spec, seed=asked.seed + index, core=core, **same)
            for index, core in enumerate(cores)
        ]
    if "open_spiel" in wanted.peers:
        compiled = asked.network.compile != "off"
        jobs["open_spiel"] = [
            OpenSpielJob(row_spec=spec, seed=asked.seed + index, compiled=compiled, **same)
            for index in range(len(cores))
        ]
    return jobs


def core_ids() -> list[int]:
    """Return the numbers of the cores that processes may be bound to, no more than this machine lets us use."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(usable_cores())
    return list(allowed[: usable_cores()])


def _started(
    name: str, jobs: Sequence[Any], wanted: PeersAsked, outcome: PeersOutcome, stack: ExitStack
) -> list[Stage]:
    """Start the processes of one peer; none, with the reason noted, when it cannot work here."""
    with ExitStack() as mine:
        stages = [mine.enter_context(Stage(name, job, wanted.asked.game_spec)) for job in jobs]
        try:
            outcome.about[name] = {"processes": [stage.wait_ready(_READY_S) for stage in stages]}
        except PoolError as error:
            outcome.not_measured[name] = str(error)
            return []
        stack.enter_context(mine.pop_all())
    return stages


# -- batching servers --------------------------------------------------------------------------------------------------


def _batchers(
    wanted: PeersAsked, names: Sequence[str], outcome: PeersOutcome, stack: ExitStack, say: Say
) -> dict[str, Contender]:
    """Start the servers, then the clients that ask all of them."""
    stages: dict[str, Stage] = {}
    for name, job in server_jobs(wanted, names, outcome.network).items():
        started = _started(name, [job], wanted, outcome, stack)
        if started:
            stages[name] = started[0]
        else:
            say(f"{name}: not measured; {outcome.not_measured[name]}")
    said = {name: outcome.about[name]["processes"][0] for name in stages}
    client = ClientJob(
        row_spec=row_spec(load_game(wanted.asked.game_spec)),
        network=outcome.network,
        dtype=wanted.asked.network.dtype,
        sizes=MESSAGE_ROWS,
        addresses={name: str(words["address"]) for name, words in said.items()},
    )
    spec = wanted.asked.game_spec
    clients = [stack.enter_context(Stage("client", client, spec)) for _ in range(wanted.clients)]
    differences = [stage.wait_ready(_READY_S) for stage in clients]
    found: dict[str, Contender] = {}
    for size in MESSAGE_ROWS:
        for name, stage in stages.items():
            batcher = Batcher(stage, int(said[name]["group"]), clients, f"{name} {size}")
            found[batcher.name] = batcher
    for name in stages:
        outcome.about[name] = {"difference": max(float(each[name]) for each in differences)}
    say(f"{', '.join(stages)}: warm; {len(clients)} clients, one message outstanding each")
    return found


def server_jobs(wanted: PeersAsked, names: Sequence[str], network: PeerNetwork) -> dict[str, Any]:
    """Return the jobs of the servers.

    Those of other projects get a process with the network for each core, and batches of as many messages that the
    clients' messages are shared among them: one larger batch would leave a core idle.
    """
    asked, spec = wanted.asked, row_spec(load_game(wanted.asked.game_spec))
    lanes = asked.server.lanes or usable_cores()
    told = {
        "model": network.model,
        "dtype": asked.network.dtype,
        "max_rows": asked.server.max_batch,
        "max_messages": max(1, min(-(-wanted.clients // lanes), asked.server.max_batch // max(MESSAGE_ROWS))),
        "lanes": lanes,
        "wait_ms": WAIT_MS,
    }
    jobs: dict[str, Any] = {
        name: HttpServer(module=f"grove.bench.peers.{name}", row_spec=spec, told=told)
        for name in names
        if name != "grove"
    }
    return {"grove": GroveServer(row_spec=spec, network=asked.network, settings=asked.server)} | jobs


# -- rounds ------------------------------------------------------------------------------------------------------------


def _play(found: Mapping[str, Contender], peak: Peak | None, seconds: float, rounds: list[Round], say: Say) -> None:
    """Play rounds of one slice each, beginning at another contender every time; add them to `rounds`."""
    slice_s, count = slice_length(seconds, len(found) + (peak is not None))
    say(f"{count} rounds of {slice_s:.1f} s each")
    for number in range(count):
        done = play_round(found, peak, slice_s, number)
        rounds.append(done)
        rates = [f"network alone {done.peak:,.0f}"] if done.peak else []
        rates += [f"{name} {_rate(part):,.0f}" for name, part in done.slices.items()]
        say(f"round {number + 1} of {count}: {', '.join(rates)} a second")


def _rate(part: Slice) -> float:
    """Return simulations a second of a player, rows a second of a server."""
    return part.simulations_per_second or part.evaluations_per_second


def _length(rounds: Sequence[Round]) -> float:
    """Return the mean seconds of a slice."""
    seconds = [part.seconds for done in rounds for part in done.slices.values()]
    return sum(seconds) / len(seconds) if seconds else 0.0
