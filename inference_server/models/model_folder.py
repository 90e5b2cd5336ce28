"""A folder of model files: which of them is the newest, and what is known of each, in `status.json` beside them.

    FOLDER/*.safetensors        models for `default`
    FOLDER/NAME/*.safetensors   models for NAME
    FOLDER/status.json          written by the server that watches: what is served, and its verdict on every file

The newest file wins: the one with the latest time of change, of equal ones the last by name. Files come by renaming, so
that nobody sees half of one; names that begin with a dot are left alone. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from grove.inference_server.interface.client import DEFAULT

STATUS = "status.json"
_SUFFIX = ".safetensors"
_MOST_HISTORY = 100


class FoundModel(NamedTuple):
    """A model file as it lies in the folder; the order of these tuples is the order of age."""

    mtime_ns: int
    name: str
    """Path below the folder."""
    size: int
    path: Path


class Served(msgspec.Struct):
    """A model that serves or served, and the file it came from (empty: none here)."""

    version: str
    file: str
    since: float


class Verdict(msgspec.Struct):
    """What was found out about a file, as it was at `mtime_ns`."""

    mtime_ns: int
    version: str
    reason: str
    """Why it is refused; empty for a good one."""


class Process(msgspec.Struct):
    """What tells a process from all others of this machine, ever."""

    pid: int
    created: float

    @classmethod
    def this(cls) -> Process:
        """Return this one."""
        return cls(os.getpid(), psutil.Process().create_time())

    @property
    def lives(self) -> bool:
        """Whether it still runs."""
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.created) < 1.0)
        except (psutil.Error, ValueError, OverflowError):
            return False


class Status(msgspec.Struct):
    """The content of `status.json`."""

    server: Process | None = None
    """Who watches the folder."""
    served: dict[str, list[Served]] = {}
    """The models of each name, oldest first: the last one serves, the others are what a rollback goes back along."""
    files: dict[str, Verdict] = {}
    """Verdicts by path below the folder."""

    @property
    def watched(self) -> bool:
        """Whether a server works on the folder now."""
        return self.server is not None and self.server.lives

    def note_served(self, model: str, version: str, file: str) -> None:
        """Note that `model` is served by `version` from now on; one that comes back cuts the history."""
        history = self.served.setdefault(model, [])
        versions = [former.version for former in history]
        if version in versions:
            del history[versions.index(version) :]
        history.append(Served(version, file, round(time.time(), 3)))
        del history[:-_MOST_HISTORY]


class ModelFolder:
    """The files of one folder, and its status."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self, model: str = DEFAULT) -> list[FoundModel]:
        """Return the files for `model`, newest first."""
        return sorted(_files(self.path, self.place_of(model)), reverse=True)

    def changed_ns(self, model: str) -> int:
        """Return when a name was last added to or taken from the files of `model`; 0 where there is no folder."""
        try:
            return self.place_of(model).stat().st_mtime_ns
        except OSError:
            return 0

    def place(self, source: Path, model: str = DEFAULT) -> Path:
        """Copy the model file `source` into the folder, whole or not at all, as the newest one; return its path.

        Raises OSError.
        """
        folder = self.place_of(model)
        folder.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:8]
        target = folder / f"{source.name.removesuffix(_SUFFIX).lstrip('.') or 'model'}-{digest}{_SUFFIX}"
        latest_ns = self._latest_ns(model)
        with _scratch(target) as scratch:
            scratch.write_bytes(content)
            os.utime(scratch, ns=(latest_ns, latest_ns))
            scratch.replace(target)
        return target

    def promote(self, name: str, model: str) -> None:
        """Make a file that is there the newest one of `model`."""
        latest_ns = self._latest_ns(model)
        os.utime(self.path / name, ns=(latest_ns, latest_ns))
        os.utime(self.place_of(model))  # those who watch look at the folder first

    def _latest_ns(self, model: str) -> int:
        """Return a time of change later than any of the files of `model`."""
        return max([time.time_ns(), *(found.mtime_ns + 1 for found in self.files(model))])

    def place_of(self, model: str) -> Path:
        """Return the folder that the files of `model` lie in."""
        return self.path if model == DEFAULT else self.path / model

    def read_status(self) -> Status:
        """Return what a server last wrote, or an empty status."""
        try:
            return msgspec.json.decode((self.path / STATUS).read_bytes(), type=Status)
        except (OSError, ValueError, RecursionError):
            return Status()

    def write_status(self, status: Status) -> None:
        """Replace the status at once. Raises OSError."""
        with _scratch(self.path / STATUS) as scratch:
            scratch.write_bytes(msgspec.json.format(msgspec.json.encode(status)))
            scratch.replace(self.path / STATUS)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` that nobody looks at; what is left there is removed."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield scratch
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
