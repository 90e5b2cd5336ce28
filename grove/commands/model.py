"""`grove model`: give a server that works another model, see what it serves, go back to the model before.

All three go through the folder that the server watches (docs/guide/models.md): a run's own is RUN/models.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import tyro

from grove.common.errors import ModelError, SettingError
from grove.inference_server.channels.zmq_client import ask_server
from grove.inference_server.interface.client import DEFAULT
from grove.inference_server.models.model_folder import STATUS, FoundModel, ModelFolder, Status, Verdict

_POLL_S = 0.1
T = TypeVar("T")
_Target = tyro.conf.Positional[str]


@dataclass(frozen=True, kw_only=True)
class Push:
    """Give a model file to a run or a server; says whether it was accepted, and if not, why."""

    file: tyro.conf.Positional[str]
    """Model file, as `save_model` writes it."""
    target: _Target
    """Run folder, folder of models that a server watches, or the server's endpoint on this machine."""
    slot: str = DEFAULT
    """Model slot that it is for."""
    wait: float = 60.0
    """Seconds to wait for the server's verdict."""


@dataclass(frozen=True, kw_only=True)
class List:
    """Show what each slot of a run or a server is served from, and the verdict on every file."""

    target: _Target
    """Run folder, folder of models that a server watches, or the server's endpoint on this machine."""


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Serve the model before the present one again; a file that comes later takes over again."""

    target: _Target
    """Run folder, folder of models that a server watches, or the server's endpoint on this machine."""
    slot: str = DEFAULT
    """Model slot that goes back."""
    to: str | None = None
    """Model to go back to, the first digits of its hash do; by default the one before."""
    wait: float = 60.0
    """Seconds to wait until it serves."""


def push(settings: Push) -> int:
    """Copy the file into the folder and wait for the verdict; returns the exit status."""
    folder = _folder(settings.target)
    _check_name(folder, settings.slot)
    try:
        path = folder.place(Path(settings.file), settings.slot)
    except OSError as error:
        limit = f"it cannot be copied to {folder.path} ({error})"
        raise SettingError.of("file", settings.file, limit, "give a readable file and a writable folder") from None
    name, placed_ns = path.relative_to(folder.path).as_posix(), path.stat().st_mtime_ns
    if not folder.read_status().watched:
        print(f"{path}: no server works on this folder now; the next one takes the file up at its start")
        return 0

    def verdict(status: Status) -> Verdict | None:
        found = status.files.get(name)
        return found if found and found.mtime_ns == placed_ns else None

    found = _wait(folder, settings.wait, verdict)
    if found.reason:
        path.unlink(missing_ok=True)
        raise ModelError(f"refused, {settings.slot} keeps its model: {found.reason}")
    print(f"{settings.slot} is served by {found.version}, {path}")
    return 0


def list_models(settings: List) -> int:
    """Print the folder's status; returns the exit status."""
    folder = _folder(settings.target)
    status = folder.read_status()
    print(f"{folder.path}: {'a server works on it' if status.watched else 'no server works on it now'}")
    for model, history in status.served.items():
        for served in history:
            when = datetime.fromtimestamp(served.since).isoformat(" ", "seconds")
            now = "serves" if served is history[-1] else "before"
            print(f"  {model}  {now}  {served.version}  since {when}  {served.file or '(no file here)'}")
    for model in status.served or [DEFAULT]:
        for found in folder.files(model):
            print(f"  {_row(found, status.files.get(found.name))}")
    return 0


def rollback(settings: Rollback) -> int:
    """Make the file of a former model the newest one; returns the exit status."""
    folder = _folder(settings.target)
    status = folder.read_status()
    _check_name(folder, settings.slot)
    if settings.slot not in status.served:
        raise SettingError.of("target", settings.target, "no server has worked on it yet", "push a model first")
    version, name = _former(folder, status, settings)
    folder.promote(name, settings.slot)
    if not status.watched:
        print(f"{name}: no server works on this folder now; the next one serves {version} from its start")
        return 0
    _wait(folder, settings.wait, lambda now: now.served[settings.slot][-1].version == version)
    print(f"{settings.slot} is served by {version} again, {folder.path / name}")
    return 0


def _former(folder: ModelFolder, status: Status, settings: Rollback) -> tuple[str, str]:
    """Return version and file of the model to go back to: the one before, unless another is named."""
    before = [(former.version, former.file) for former in reversed(status.served[settings.slot][:-1])]
    if settings.to is None:
        wanted, known = "before the present one", before[:1]
    else:
        wanted = f"that begins with {settings.to}"
        known = before + [(found.version, name) for name, found in status.files.items() if found.version]
        known = [(version, name) for version, name in known if version.startswith(settings.to)]
    files = {found.name for found in folder.files(settings.slot)}
    for version, name in known:
        if name in files:
            return version, name
    remedy = "see `grove model list`; --to names another"
    raise SettingError.of("slot", settings.slot, f"it has no model {wanted} with a file here", remedy)


def _row(found: FoundModel, verdict: Verdict | None) -> str:
    if verdict is None or verdict.mtime_ns != found.mtime_ns:
        return f"{found.name}  not looked at"
    return f"{found.name}  {f'refused: {verdict.reason}' if verdict.reason else f'{verdict.version}  accepted'}"


def _wait(folder: ModelFolder, seconds: float, look: Callable[[Status], T | None]) -> T:
    """Return what `look` finds in the status, as soon as it finds anything."""
    deadline = time.monotonic() + seconds
    while not (found := look(folder.read_status())):
        if time.monotonic() > deadline:
            later = f"its verdict will be in {folder.path / STATUS}"
            raise ModelError(f"the server said nothing within {seconds:g} s; {later}")
        time.sleep(_POLL_S)
    return found


def _folder(target: str) -> ModelFolder:
    """Return the folder of models of a run, of a server that listens at an endpoint, or itself."""
    if target.startswith(("tcp://", "ipc://")):
        path = ask_server(target).models_folder
        if not path or not Path(path).is_dir():
            limit = f"its server watches no folder of this machine ({path or 'none'})"
            raise SettingError.of("target", target, limit, "start it with --watch-models, or push where it runs")
        return ModelFolder(Path(path))
    run = Path(target)
    if not run.is_dir():
        raise SettingError.of("target", target, "there is no such folder", "give a run folder or an endpoint")
    if (run / "config.toml").exists():
        (run / "models").mkdir(exist_ok=True)
        return ModelFolder(run / "models")
    return ModelFolder(run)


def _check_name(folder: ModelFolder, model: str) -> None:
    known = {DEFAULT, *folder.read_status().served}
    if model not in known:
        raise SettingError.of("slot", model, f"only {', '.join(sorted(known))} are served", "choose one of them")
