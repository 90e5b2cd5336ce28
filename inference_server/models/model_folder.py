"""A folder of model files: which of them is the newest, and what is known of each, in `status.json` beside them.

    FOLDER/*.safetensors        models for slot `default`
    FOLDER/NAME/*.safetensors   models for slot NAME
    FOLDER/status.json          written by the server that watches: what is served, and its verdict on every file

The newest file wins: the one with the latest time of change, of equal ones the last by name. Files come by renaming, so
that nobody sees half of one; names that begin with a dot are left alone. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from grove.inference_server.batching.slots import DEFAULT

STATUS = "status.json"
_SUFFIX = ".safetensors"
_FORMAT = 1
MOST_HEADER = 100 << 20
"""Bytes of the longest header, the limit of the safetensors library."""
_MOST_HISTORY = 100


class FoundModel(NamedTuple):
    """A model file as it lies in the folder; the order of these tuples is the order of age."""

    mtime_ns: int
    name: str
    """Path below the folder."""
    size: int
    path: Path


class ModelFolder:
    """The files of one folder, and its status."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self, slot: str = DEFAULT) -> list[FoundModel]:
        """Return the model files for `slot`, newest first."""
        return sorted(_files(self.path, self._place(slot)), reverse=True)

    def changed_ns(self, slot: str) -> int:
        """Return when a name was last added to or taken from the files of `slot`; 0 where there is no folder."""
        try:
            return self._place(slot).stat().st_mtime_ns
        except OSError:
            return 0

    def place(self, source: Path, slot: str, digest: str) -> Path:
        """Copy the model file `source` into the folder, whole or not at all, as the newest one; return its path."""
        folder = self._place(slot)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{source.name.removesuffix(_SUFFIX).lstrip('.') or 'model'}-{digest[:8]}{_SUFFIX}"
        scratch = folder / f".{target.name}.{os.getpid()}.part"
        try:
            with source.open("rb") as reader, scratch.open("wb") as writer:
                while block := reader.read(1 << 20):
                    writer.write(block)
                writer.flush()
                os.fsync(writer.fileno())
            os.utime(scratch, ns=(time.time_ns(), self._latest_ns(slot)))
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
        return target

    def promote(self, name: str, slot: str) -> None:
        """Make a file that is there the newest one of `slot`."""
        latest = self._latest_ns(slot)
        os.utime(self.path / name, ns=(latest, latest))
        os.utime(self._place(slot))  # those who watch look at the folder first

    def _latest_ns(self, slot: str) -> int:
        """Return a time of change later than any of the files of `slot`."""
        return max([time.time_ns(), *(found.mtime_ns + 1 for found in self.files(slot))])

    def _place(self, slot: str) -> Path:
        return self.path if slot == DEFAULT else self.path / slot

    # Status

    def read_status(self) -> dict[str, Any]:
        """Return what a server last wrote, or an empty status: {"slots": {}, "files": {}, "server": None, ...}."""
        try:
            status = json.loads((self.path / STATUS).read_bytes())
        except (OSError, ValueError, RecursionError):
            status = None
        if not _is_status(status):
            return {"format": _FORMAT, "fit": "", "server": None, "slots": {}, "files": {}}
        return dict(status)

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace the status at once. Raises OSError."""
        scratch = self.path / f".{STATUS}.{os.getpid()}.part"
        try:
            scratch.write_text(json.dumps(status, indent=1), encoding="utf-8")
            scratch.replace(self.path / STATUS)
        finally:
            scratch.unlink(missing_ok=True)


def _files(root: Path, folder: Path) -> Iterator[FoundModel]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX) and not entry.name.startswith("."):
                with suppress(OSError):  # gone meanwhile
                    facts = entry.stat()
                    if entry.is_file():
                        path = Path(entry.path)
                        yield FoundModel(facts.st_mtime_ns, path.relative_to(root).as_posix(), facts.st_size, path)


def _is_status(status: Any) -> bool:
    """Whether this is a status as `write_status` writes it: the file lies where others may write."""
    try:
        files, slots = status["files"].values(), status["slots"].values()
        entries = [*slots, *(former for slot in slots for former in slot["history"])]
        return bool(
            status["format"] == _FORMAT
            and isinstance(status["fit"], str)
            and (status["server"] is None or isinstance(status["server"], dict))
            and all(isinstance(entry[key], str) for entry in files for key in ("sha256", "reason", "version"))
            and all(type(entry[key]) is int for entry in files for key in ("size", "mtime_ns"))
            and all(isinstance(entry["good"], bool) for entry in files)
            and all(isinstance(entry[key], str) for entry in entries for key in ("version", "file"))
            and all(isinstance(entry["since"], float | int) for entry in entries)
        )
    except (TypeError, KeyError, AttributeError):
        return False


def is_whole(path: Path) -> bool:
    """Whether the file is as long as its own header says; True as well where that header is no use.

    Raises OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or (8 + length > size and length <= MOST_HEADER):
            return False
        if length > MOST_HEADER:
            return True
        header = file.read(length)
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        return size >= 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return True


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others of this machine, ever."""
    return {"pid": os.getpid(), "created": psutil.Process().create_time()}


def lives(process: dict[str, Any] | None) -> bool:
    """Whether the process that `this_process` described still runs on this machine."""
    if process is None:
        return False
    try:
        return bool(abs(psutil.Process(process["pid"]).create_time() - process["created"]) < 1.0)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def note_served(status: dict[str, Any], slot: str, version: str, name: str) -> None:
    """Note that `slot` is served by model `version` from file `name` from now on.

    `history` holds the models before it, oldest first: what a rollback goes back along. One that comes back cuts it.
    """
    entry = {"version": version, "file": name, "since": round(time.time(), 3)}
    before = status["slots"].get(slot)
    history = [*before["history"], {key: before[key] for key in entry}] if before else []
    versions = [former["version"] for former in history]
    if version in versions:
        history = history[: versions.index(version)]
    status["slots"][slot] = {**entry, "history": history[-_MOST_HISTORY:]}
