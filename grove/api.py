"""What `import grove` offers beside games and search: play, read what was played, serve and be served."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import multiprocessing
import os
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grove.common.errors import PoolError, SettingError
from grove.common.user_class import load_class
from grove.connection import ServerConnection
from grove.game.registry import load_game
from grove.inference_server import RowSpec, ServerSettings, private_endpoint
from grove.inference_server.channels.endpoint import check_endpoint
from grove.inference_server.channels.keys import ClientKeys
from grove.inference_server.channels.zmq_client import ask_server
from grove.inference_server.interface.network_settings import NetworkSettings, resolve_network
from grove.inference_server.interface.settings import MetricsSettings, ModelSettings
from grove.records.files import Problem
from grove.records.record import finished_indices, read_folder
from grove.records.replay import RecordedGame
from grove.run.folder import new_path
from grove.run.settings import SelfPlay, settings_of
from grove.workers.pool import server_entry
from grove.workers.pool.fork_server import SERVERS
from grove.workers.pool.plan import ServerJob
from grove.workers.selfplay.control_pipe import ControlPipe
from grove.workers.selfplay.evaluators import row_spec

_log = logging.getLogger("grove")
_STOP_S = 10.0
"""Longest wait for a server to answer what it took in before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of `selfplay`."""

    folder: Path
    """Run folder: `read_games` reads it, the same call with it as `out` goes on."""
    games: int
    """Finished games in it."""
    figures: Mapping[str, Any]
    """Its summary.json (docs/reference/metrics.md has the keys): games and evaluations a second, memory, ..."""


def selfplay(
    game: str | type[Any],
    *,
    games: int = 200,
    out: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Summary:
    """Play `games` games into a run folder, as `grove selfplay` does, and return what came of it.

    Args:
        game: as `--game` takes it, such as "hex:size=7" or "my_game.py:MyGame", or the class of your own game.
        games: games that the folder shall hold in the end; those that are there already are not played again.
        out: run folder, made where there is none; by default a new one under runs/.
        quiet: show no progress on standard output.
        **settings: any other setting of the command by the name of its flag: simulations=100, network="...",
            model="...", workers=4, device="cpu", ... `grove selfplay --help` lists them.

    Call it in the main thread, which handles Ctrl-C meanwhile. Workers do not run your script; but a file that holds
    your game is imported by them, so there the call belongs under `if __name__ == "__main__":`.

    Raises:
        SettingError: a setting that is unknown or cannot work; nothing was played.
        PoolError, StorageError: the run could not go on; finished games are saved.
        KeyboardInterrupt: Ctrl-C or SIGTERM ended it; finished games are saved.
    """
    _refuse_while_importing()
    if threading.current_thread() is not threading.main_thread():
        raise SettingError("grove.selfplay handles Ctrl-C, which only the main thread can; call it there")
    spec = _spec(game)
    folder = new_path(spec) if out is None else Path(out)
    given = {"game": spec, "games": games, "out": folder, **settings}
    wanted = settings_of(SelfPlay, given, "grove.selfplay")
    if wanted.pool.evaluator == "server":
        SERVERS.begin()  # it loads torch beside what follows
    from grove.commands.selfplay import selfplay as play

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere) if quiet else contextlib.nullcontext():
        play(wanted)
    played = len(finished_indices(folder / "games").indices)
    if played < wanted.run.games:
        raise KeyboardInterrupt
    path = folder / "summary.json"
    return Summary(folder=folder, games=played, figures=json.loads(path.read_text()) if path.exists() else {})


def read_games(folder: str | Path, problems: list[Problem] | None = None) -> Iterator[RecordedGame]:
    """Yield the games of a run folder, or of a folder of logs, log by log.

    Lines that cannot be used, such as a torn last one, are skipped and appended to `problems`. A folder without games
    yields none.
    """
    path = Path(folder)
    for record in read_folder(path / "games" if (path / "games").is_dir() else path, problems):
        yield RecordedGame(record)


@dataclass(frozen=True, kw_only=True)
class _ServeSettings:
    network: NetworkSettings = field(default_factory=NetworkSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)


@contextmanager
def serve(game: str | type[Any] | RowSpec, *, bind: str = "", keys: str = "", **settings: Any) -> Iterator[str]:
    """Serve a network from a process of its own; a context manager that gives the endpoint for `connect`.

    Args:
        game: whose rows are served, as `selfplay` takes it; or a `RowSpec`, which needs no rules.
        bind: where to listen, "tcp://127.0.0.1:PORT" (PORT may be *) or "ipc://PATH"; by default where only processes
            of this user on this machine come in.
        keys: folder of `grove keys`, which lets in other machines: bind="tcp://0.0.0.0:PORT".
        **settings: the other settings of `grove serve` by the names of their flags: network, model, device, max_batch,
            lanes, watch_models, metrics_port, ...

    Leaving the context ends the server, after what it took in is answered.

    Raises:
        SettingError, ModelError: what is asked for cannot be served.
        PoolError: the server could not start.
    """
    _refuse_while_importing()
    wanted = settings_of(_ServeSettings, settings, "grove.serve")
    rows = game if isinstance(game, RowSpec) else row_spec(load_game(_spec(game)))
    check_endpoint(bind or "tcp://127.0.0.1:*", bool(keys))
    with ExitStack() as stack:
        job = ServerJob(
            game_spec=rows.game,
            row_spec=rows,
            evaluator="server",
            network=resolve_network(wanted.network, rows)[0],
            server=wanted.server,
            endpoint=bind or stack.enter_context(private_endpoint()),
            keys=keys,
            metrics_port=wanted.metrics.metrics_port,
            models=wanted.models.watch_models or "",
        )
        yield stack.enter_context(_server(job))


@contextmanager
def _server(job: ServerJob) -> Iterator[str]:
    """Run the server's process and yield its endpoint; a thread reads what it says."""
    mine, theirs = multiprocessing.Pipe()
    child = SERVERS.start(server_entry.main, (job, theirs, [], None), "grove-server")
    theirs.close()
    pipe, told, said = ControlPipe(mine), threading.Event(), dict[str, Any]()

    def read() -> None:
        kind = ""
        while kind != "stop":
            kind, *values = pipe.receive(1.0) or ("",)
            if kind == "problem" or (kind == "failed" and told.is_set()):
                _log.warning("inference server: %s", values[0])
            elif kind in ("ready", "failed"):
                said[kind] = values[0]
                told.set()
        told.set()

    reader = threading.Thread(target=read, name="grove-server-says", daemon=True)
    reader.start()
    try:
        told.wait()
        if "ready" not in said:
            raise PoolError(f"the inference server could not start: {said.get('failed', 'it was killed')}")
        yield str(said["ready"]["endpoint"])
    finally:
        pipe.send("stop")
        child.end(_STOP_S)
        reader.join()
        pipe.close()


def connect(endpoint: str, *, keys: str = "", window: int = 8, max_rows: int = 1024) -> ServerConnection:
    """Connect to an inference server: of `serve`, of `grove serve`, on this machine or on another.

    Args:
        endpoint: what `serve` gave, or what `grove serve` prints.
        keys: folder of this client's keys, DIR/clients/NAME of `grove keys DIR`, for a server that asks for them.
        window: requests that may be in flight.
        max_rows: observations of one request; `evaluate` splits what is more.

    Raises:
        ServerGone: no server answers for half a minute.
        HandshakeError: it does not let us in, or refuses the sizes; the text says what helps.
    """
    pair = ClientKeys.read(keys) if keys else None
    return ServerConnection(endpoint, ask_server(endpoint, pair).rows, window=window, max_rows=max_rows, keys=pair)


def _spec(game: str | type[Any]) -> str:
    """Return the spec by which every process finds a class; one of the script that runs is found by its file."""
    if isinstance(game, str):
        return game
    if game.__module__ != "__main__":
        return f"{game.__module__}:{game.__qualname__}"
    try:
        return f"{os.path.relpath(inspect.getfile(game))}:{game.__qualname__}"
    except (TypeError, OSError):
        raise SettingError(f"{game.__qualname__} lies in no file; save it in one, where workers find it") from None


def _refuse_while_importing() -> None:
    """Raise SettingError while a script that calls this is imported for the game it holds: it would call for ever."""
    if any(frame.f_code is load_class.__code__ for frame, _ in traceback.walk_stack(None)):
        raise SettingError(
            "Grove is called while your script is imported for its game; "
            'put the call under `if __name__ == "__main__":`, or the game into a file of its own'
        )
