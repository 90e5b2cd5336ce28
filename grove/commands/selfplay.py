"""`grove selfplay` and `grove work`: one run of a pool into one folder, with its live view."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from grove.common.errors import HandshakeError, PoolError, RecordError, SettingError, StorageError
from grove.common.machine import usable_cores
from grove.game import check, load_game
from grove.game.contract import Game
from grove.inference_server import ServerSettings, ZmqClient
from grove.inference_server.channels.keys import ClientKeys
from grove.inference_server.channels.zmq_client import ask_server
from grove.inference_server.interface.network_settings import NetworkSettings, resolve_network
from grove.live.snapshot import Snapshot
from grove.live.view import LiveView
from grove.records.log import FSYNC_EVERY_S
from grove.records.record import finished_indices
from grove.run.folder import MAY_DIFFER, RunFolder, new_path
from grove.run.interrupts import STOPPED, Interrupts
from grove.run.settings import SelfPlay, Work, flatten
from grove.run.summary import print_summary
from grove.workers.pool import figures
from grove.workers.pool.plan import PoolPlan, Sizes
from grove.workers.pool.pool import Pool
from grove.workers.pool.sampler import INTERVAL_S, Sampler
from grove.workers.pool.settings import PoolSettings
from grove.workers.pool.sizing import check_memory, check_requests, pool_kind, sizes
from grove.workers.selfplay.evaluators import row_spec
from grove.workers.selfplay.game_scheduler import GameScheduler

_LAST_S = 1.0
"""Shortest last interval worth a line of metrics.jsonl; the rates of a shorter one say little."""
_TICK_S = 0.1
_FSYNC_S = {"game": 0.0, "interval": FSYNC_EVERY_S, "off": None}
_HOW_NOT_WHICH = (
    *("device", "compile", "cache", "max_batch", "max_delay_us", "idle_after_ms", "min_share_rows", "max_window"),
    *("max_request_rows", "max_message_mb", "forget_after_s", "connect"),
    *("keys", "max_clients"),
    *("metrics_port", "watch_models", "hang_after_s"),
    *("swap", "max_clients_mb", "ping_interval_ms"),  # of version 0.1
)
"""Settings beside run_folder.MAY_DIFFER that may change at a resume: they say how games are computed, not which."""


def selfplay(settings: SelfPlay) -> int:
    """Play `settings.run.games` games; returns the exit status."""
    game = _checked_game(settings.run.game)
    network, why = resolve_network(settings.network, row_spec(game))
    settings = replace(settings, run=replace(settings.run, game=game.name), network=network)
    pool, server = settings.pool, settings.server
    kind, reason = pool_kind(pool, game)
    chosen = sizes(kind, pool, server, settings.run.games, settings.network.device, settings.search.worlds)
    check_requests(settings.search, server, chosen)
    check_memory(game, settings.search, chosen)
    with Interrupts(settings.run.drain) as interrupts, _folder(settings, settings.run.out, game) as folder:
        plan = PoolPlan(
            game_spec=game.name,
            run_seed=folder.seed,
            games_folder=folder.games,
            search=settings.search,
            network=network,
            server=server,
            evaluator=pool.evaluator,
            pool=kind,
            pool_reason=reason,
            sizes=chosen,
            metrics_port=_metrics_port(settings),
            fsync_every_s=_FSYNC_S[settings.run.fsync],
            models=settings.models.watch_models or str(folder.path / "models"),
        )
        return _Run(folder, plan, game, range(settings.run.games), interrupts, why).play()


def work(settings: Work) -> int:
    """Play games with worker processes on a server elsewhere; returns the exit status."""
    keys = ClientKeys.read(settings.keys) if settings.keys else None
    wanted = _index_range(settings)
    pool = PoolSettings(
        workers=settings.workers, games_per_worker=settings.games_per_worker, groups=settings.groups, pool="process"
    )
    served = ask_server(settings.connect, keys)
    game = _checked_game(served.rows.game)
    chosen = sizes("process", pool, ServerSettings(), len(wanted), "cpu", settings.search.worlds)
    check_memory(game, settings.search, chosen)
    _check_served(settings, game, chosen, keys)
    with Interrupts(settings.run.drain) as interrupts, _folder(settings, settings.run.out, game) as folder:
        plan = PoolPlan(
            game_spec=game.name,
            run_seed=folder.seed,
            games_folder=folder.games,
            search=settings.search,
            network=NetworkSettings(),
            server=ServerSettings(),
            evaluator="server",
            pool="process",
            pool_reason=f"a server at {settings.connect} serves worker processes",
            sizes=chosen,
            endpoint=settings.connect,
            keys=settings.keys or "",
            fsync_every_s=_FSYNC_S[settings.run.fsync],
        )
        return _Run(folder, plan, game, wanted, interrupts).play()


def _check_served(settings: Work, game: Game, chosen: Sizes, keys: ClientKeys | None) -> None:
    """Let the server refuse now, with the remedy, what it would refuse every worker. Raises HandshakeError."""
    rows = -(-chosen.games // chosen.groups) * settings.search.rows
    try:
        ZmqClient(settings.connect, row_spec(game), window=chosen.groups, max_rows=rows, keys=keys).close()
    except HandshakeError as error:
        if "exceed" in str(error):
            raise HandshakeError(f"{error} or --games-per-worker, or use other --groups") from None
        raise


def _metrics_port(settings: SelfPlay) -> int:
    port, evaluator = settings.metrics.metrics_port, settings.pool.evaluator
    if port and evaluator != "server":
        raise SettingError.of("metrics-port", port, f"the {evaluator} evaluator has no server", "leave it out")
    return port


def _checked_game(spec: str) -> Game:
    """Return the game; one that is not built in must first keep the contract on a few random games."""
    game = load_game(spec)
    if "." in spec.partition(":")[0] or spec.partition(":")[2].isidentifier():
        check(game, games=4)
    return game


def _index_range(settings: Work) -> range:
    if settings.indices is None:
        return range(settings.run.games)
    first, _, last = settings.indices.partition(":")
    if first.isdigit() and last.isdigit() and int(first) < int(last):
        return range(int(first), int(last))
    raise SettingError.of("indices", settings.indices, "it must read A:B with A < B", "write e.g. --indices 0:500")


def _folder(settings: SelfPlay | Work, out: str | None, game: Game) -> RunFolder:
    path = Path(out) if out else new_path(game.name)
    return RunFolder.open_or_create(path, flatten(settings), may_differ=(*MAY_DIFFER, *_HOW_NOT_WHICH))


def _head(pool: Pool, game: str, folder: str, network_reason: str) -> Snapshot:
    """Return what does not change while a run goes on: device, dtype, network, pool and their reasons."""
    backend = pool.server_ready.get("backend", {})
    evaluator, endpoint = pool.plan.evaluator, pool.plan.endpoint
    where = f"a server at {endpoint}" if endpoint else f"the {evaluator} evaluator"
    own = pool.plan.network.model or pool.plan.network.network
    needs_none = evaluator in ("rollout", "test")
    return dict(
        game=game,
        folder=folder,
        device=str(backend.get("device", "elsewhere" if endpoint else "cpu")),
        device_reason=str(backend.get("device_reason", where)),
        dtype=str(backend.get("dtype", "as served" if endpoint else "-")),
        dtype_reason=_dtype_reason(backend) or where,
        network="as served" if endpoint else "none" if needs_none else own,
        network_reason=where if endpoint or needs_none else network_reason,
        pool=pool.pool_kind,
        cores=usable_cores(),
        games_per_worker=pool.sizes.games,
        pool_reason=pool.plan.pool_reason,
    )


def _dtype_reason(backend: dict[str, Any]) -> str:
    """Return why the dtype was taken, with the measured drift against fp32 where there is one."""
    drift = backend.get("policy_drift", 0.0), backend.get("value_drift", 0.0)
    text = str(backend.get("dtype_reason", ""))
    return f"{text}; differs from fp32 by {drift[0]:.1g} in policy, {drift[1]:.1g} in value" if any(drift) else text


class _Run:
    """One start of a run: the pool, the view, the figures."""

    def __init__(
        self,
        folder: RunFolder,
        plan: PoolPlan,
        game: Game,
        wanted: range,
        interrupts: Interrupts,
        network_reason: str = "",
    ) -> None:
        self._folder, self._plan, self._game, self._network_reason = folder, plan, game, network_reason
        self._interrupts = interrupts
        done = finished_indices(folder.games)
        for problem in done.problems:
            folder.log(str(problem))
        self._torn = len(done.problems)
        self._pool = Pool(plan, GameScheduler(wanted, done.indices), folder.lock)
        interrupts.end_now = self._pool.end_now
        self._unit = next(iter(game.units))
        self._said = 0  # of the pool's problems
        self._unkept = False  # whether it was said that something beside the games cannot be written
        self._began: float | None = None
        self._seconds = 0.0  # of playing, once it is over
        self._sampler: Sampler | None = None
        self._written_s: float | None = None  # when, in seconds of playing, metrics were written last

    def play(self) -> int:
        """Play until all games are finished or the user interrupts; returns the exit status.

        Raises PoolError or StorageError when the run cannot go on; its figures are written and told first.
        """
        scheduler, failure = self._pool.scheduler, None
        with LiveView(len(scheduler.wanted)) as view:
            view.update({"state": "starting", "game": self._game.name, "games": scheduler.finished, "unit": self._unit})
            if self._torn:
                view.message(f"{self._torn} torn or damaged lines skipped; see {self._folder.path / 'log.txt'}")
            if scheduler.left:
                try:
                    self._play(view)
                except (PoolError, StorageError) as error:
                    if self._began is None:
                        raise
                    failure = error
        status = self._close()
        if failure is not None:
            raise failure
        return status

    def _play(self, view: LiveView) -> None:
        with self._pool as pool:
            self._start()
            if not self._interrupts.count:
                self._say_sizes(view, pool.sizes)
                self._say_head(view)
                with closing(Sampler(pool, self._game.units)) as self._sampler:
                    try:
                        self._watch(view)
                    finally:
                        self._seconds = time.monotonic() - self._began if self._began is not None else 0.0
                        self._say_problems(view)

    def _start(self) -> None:
        """Start the pool; a new folder of a run that cannot start goes again, so that mended settings may use it."""
        try:
            self._pool.start(lambda: self._interrupts.count > 0)
        except PoolError:
            if not self._folder.resumed:
                shutil.rmtree(self._folder.path, ignore_errors=True)
            raise

    def _watch(self, view: LiveView) -> None:
        pool = self._pool
        last = None
        while pool.scheduler.left and not self._over(view):
            pool.pump(_TICK_S)
            self._say_problems(view)
            now = self._counters()
            if now is None:
                continue
            if last is None or now["seconds"] - last["seconds"] >= 1.0:
                view.update(self._snapshot(now, last))
                last = now
            if now["seconds"] - (self._written_s or 0.0) >= INTERVAL_S:
                view.update(self._sample())
                self._write_metrics(now)
        self._sample()
        view.update({"state": "finishing", "games": pool.scheduler.finished})

    def _over(self, view: LiveView) -> bool:
        """Return whether the user wants to stop and, where asked for, the games in progress have ended."""
        interrupts = self._interrupts
        if not interrupts.count or not interrupts.drain or interrupts.count > 1:
            return interrupts.count > 0
        if not self._pool.draining:
            view.message("finishing the games in progress; again to stop now")
            self._pool.drain()
        return self._pool.drained

    def _say_problems(self, view: LiveView) -> None:
        for problem in self._pool.problems[self._said :]:
            view.message(problem)
            self._keep(self._folder.log, problem)
            self._said += 1

    def _keep(self, write: Callable[[Any], object], what: object) -> None:
        """Write what stands beside the games; a failure is told once and costs no game."""
        try:
            write(what)
        except RecordError as error:
            if not self._unkept:
                self._unkept = True
                self._pool.problems.append(f"the games are safe, but not their figures: {error}")

    def _say_head(self, view: LiveView) -> None:
        """Show what this start chose, and note it for `grove watch`."""
        head = _head(self._pool, self._game.name, str(self._folder.path), self._network_reason)
        view.update(head)
        chosen = {key: value for key, value in head.items() if key != "folder"} | {"unit": self._unit}
        self._keep(self._folder.describe, chosen)

    def _sample(self) -> dict[str, Any]:
        return self._sampler.look() if self._sampler else {}

    def _write_metrics(self, now: figures.Counters) -> None:
        if self._sampler:
            self._keep(self._folder.write_metrics, self._sampler.line(now))
            self._written_s = now["seconds"]

    def _counters(self) -> figures.Counters | None:
        """Return the counters once a worker is ready; the clock starts there, warm-up left out."""
        if self._began is None:
            if not self._pool.ready:
                return None
            self._began = time.monotonic()
        return figures.counters(self._pool, time.monotonic() - self._began)

    def _snapshot(self, now: figures.Counters, last: figures.Counters | None) -> Snapshot:
        return {
            "state": "",
            "games": self._pool.scheduler.finished,
            "workers_alive": self._pool.alive,
            "workers_restarted": self._pool.restarted,
            "server_restarted": self._pool.server_restarted,
            **figures.rates(now, last, self._game.units),
        }

    def _say_sizes(self, view: LiveView, chosen: Sizes) -> None:
        total = check_memory(self._game, self._plan.search, chosen)
        text = f"{chosen}, {figures.search_text(self._plan.search)}; trees take {total / 2**20:.0f} MiB"
        view.message(text)
        self._keep(self._folder.log, text)

    def _close(self) -> int:
        scheduler = self._pool.scheduler
        if self._began is not None:
            chosen = asdict(self._pool.sizes)
            played = figures.counters(self._pool, self._seconds)  # with the workers' last words
            if self._written_s is None or self._seconds - self._written_s >= _LAST_S:
                self._write_metrics(played)
            summary = figures.summary(
                self._pool,
                played,
                {"workers": chosen["workers"], "games_per_worker": chosen["games"], "groups": chosen["groups"]},
                self._game.units,
            )
            self._keep(self._folder.write_summary, summary)
            print_summary(summary, str(self._folder.path))
        for problem in self._pool.problems[self._said :]:
            print(problem)
            self._keep(self._folder.log, problem)
        if scheduler.left:
            again = f"the same command with --out {self._folder.path} plays them"
            print(f"{scheduler.finished} {self._unit} are saved, {scheduler.left} are left: {again}.")
        elif self._began is None:
            print(f"All {scheduler.finished} {self._unit} are there already: {self._folder.path}")
        return 0 if self._interrupts.count < 2 else STOPPED
