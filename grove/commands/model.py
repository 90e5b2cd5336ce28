"""`grove model`: give a server that works another model, see what it serves, go back to the model before.

All three go through the folder that the server watches (docs/guide/models.md): a run's own is RUN/models.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import tyro

from grove.common.errors import ModelError, SettingError
from grove.inference_server.batching.slots import DEFAULT
from grove.inference_server.channels.zmq_client import ask_server
from grove.inference_server.models.model_folder import STATUS, FoundModel, ModelFolder, file_digest, is_whole, lives

_POLL_S = 0.1
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
    folder, source = _folder(settings.target), Path(settings.file)
    try:
        if not is_whole(source):
            raise ModelError(f"model {source} is truncated or not safetensors; copy or export it again")
        path = folder.place(source, _known_slot(folder, settings.slot), file_digest(source))
    except OSError as error:
        limit = f"it cannot be copied to {folder.path} ({error})"
        raise SettingError.of("file", settings.file, limit, "give a readable file and a writable folder") from None
    name = path.relative_to(folder.path).as_posix()
    if not lives(folder.read_status()["server"]):
        print(f"{path}: no server works on this folder now; the next one takes the file up at its start")
        return 0
    entry = _wait(folder, settings.wait, lambda status: _verdict(folder, status, name))
    if not entry["good"]:
        path.unlink(missing_ok=True)
        raise ModelError(f"refused, slot {settings.slot} keeps its model: {entry['reason']}")
    print(f"slot {settings.slot} is served by {entry['version']}, {path}")
    return 0


def list_models(settings: List) -> int:
    """Print the folder's status; returns the exit status."""
    folder = _folder(settings.target)
    status = folder.read_status()
    print(f"{folder.path}: {'a server works on it' if lives(status['server']) else 'no server works on it now'}")
    for slot, served in status["slots"].items():
        for entry in (*served["history"], served):
            when = datetime.fromtimestamp(entry["since"]).isoformat(" ", "seconds")
            now = "serves" if entry is served else "before"
            print(f"  {slot}  {now}  {entry['version']}  since {when}  {entry['file'] or '(no file here)'}")
    for slot in status["slots"] or [DEFAULT]:
        for found in folder.files(slot):
            print(f"  {_row(found, status['files'].get(found.name))}")
    return 0


def rollback(settings: Rollback) -> int:
    """Make the file of a former model the newest one; returns the exit status."""
    folder = _folder(settings.target)
    status = folder.read_status()
    if _known_slot(folder, settings.slot) not in status["slots"]:
        raise SettingError.of("target", settings.target, "no server has worked on it yet", "push a model first")
    version, name = _former(folder, status, settings)
    folder.promote(name, settings.slot)
    if not lives(status["server"]):
        print(f"{name}: no server works on this folder now; the next one serves {version} from its start")
        return 0
    _wait(folder, settings.wait, lambda now: now["slots"].get(settings.slot, {}).get("version") == version or None)
    print(f"slot {settings.slot} is served by {version} again, {folder.path / name}")
    return 0


def _former(folder: ModelFolder, status: dict[str, Any], settings: Rollback) -> tuple[str, str]:
    """Return version and file of the model to go back to: the one before, unless another is named."""
    before = [(entry["version"], entry["file"]) for entry in reversed(status["slots"][settings.slot]["history"])]
    files = {found.name for found in folder.files(settings.slot)}
    here = [(entry["version"], name) for name, entry in status["files"].items() if entry["good"]]
    here = [(version, name) for version, name in before + here if name in files]
    wanted, known = "before the present one", [version for version, _ in before[:1]]
    if settings.to is not None:
        wanted = f"that begins with {settings.to}"
        known = [version for version, _ in here if version.startswith(settings.to)]
    for version, name in here:
        if version in known[:1]:
            return version, name
    remedy = "see `grove model list`; --to names another"
    raise SettingError.of("slot", settings.slot, f"it has no model {wanted} with a file here", remedy)


def _row(found: FoundModel, entry: dict[str, Any] | None) -> str:
    if entry is None or (entry["size"], entry["mtime_ns"]) != (found.size, found.mtime_ns):
        return f"{found.name}  not looked at"
    if entry["good"]:
        return f"{found.name}  {entry['version']}  accepted"
    return f"{found.name}  refused: {entry['reason']}"


def _verdict(folder: ModelFolder, status: dict[str, Any], name: str) -> dict[str, Any] | None:
    entry, path = status["files"].get(name), folder.path / name
    if entry is None or not path.exists() or entry["mtime_ns"] != path.stat().st_mtime_ns:
        return None
    return dict(entry)


def _wait(folder: ModelFolder, seconds: float, look: Callable[[dict[str, Any]], Any]) -> Any:
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


def _known_slot(folder: ModelFolder, slot: str) -> str:
    known = {DEFAULT, *folder.read_status()["slots"]}
    if slot not in known:
        raise SettingError.of("slot", slot, f"only {', '.join(sorted(known))} are served", "choose one of them")
    return slot
