"""Watching a folder of model files while a server works: the newest one that is any good is served.

A file is loaded, checked and tried by a thread of its own; the lanes go on meanwhile. What was found out about a file
is remembered by its content, in the folder's status, so that thousands of old files cost nothing at the next start.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from grove.common.errors import ModelError
from grove.inference_server.models.model_folder import (
    FoundModel,
    ModelFolder,
    file_digest,
    is_whole,
    note_served,
    this_process,
)
from grove.inference_server.server import InferenceServer

LOOK_S = 0.25
"""Seconds between two looks at the folder."""
_SETTLED_S = 2.0
"""Age of a folder's last change from which no second one can hide behind the same time stamp."""
_PATIENCE_S = 5.0
"""How long a file that is shorter than it says may stay as it is before it is refused."""
_NICENESS = 5
_END_S = 5.0
"""Longest wait for a model that is being looked at when the server ends; the thread ends with the process."""

_Place = tuple[str, int, int]
"""A file as it lay there: name, size, time of change."""


class Source(Protocol):
    """Where models come from; `backend.ModelFiles` is the real one."""

    fit: str
    """What a verdict depends on besides the file: architecture, rows, number format."""

    def load(self, path: Path) -> Any:
        """Return the model in a file, with its `version`. Raises ModelError."""
        ...

    def save_start(self, version: str, path: Path) -> None:
        """Write the model `version`, with which a slot began, to a file. Raises OSError, ModelError when it is gone."""
        ...


class _Verdict(NamedTuple):
    good: bool
    reason: str
    version: str


class ModelWatch:
    """Serves the newest good model of a folder in an `InferenceServer`; a context manager.

    Entering takes a first look at once, so that a server which was started again goes on with the model it had.
    """

    def __init__(self, server: InferenceServer, folder: Path, source: Source) -> None:
        self._server, self._source = server, source
        self._folder = ModelFolder(folder)
        self._status = self._folder.read_status()
        self._seen_ns: dict[str, int] = {}  # slot -> change of its folder at the last look
        self._pending: set[str] = set()  # slots with a file to look at again
        self._short: dict[_Place, float] = {}  # files shorter than they say, and since when
        self._taken: dict[str, tuple[int, str]] = {}  # slot -> age of the file it is served from
        self._loaded: tuple[_Place, Any] | None = None  # a model that has to wait for its turn
        self._failed: set[_Place] = set()  # files that could not be judged, for reasons that are not their own
        self._said: set[str] = set()
        self._unwritten = False  # the status has changed
        self._started_ns = time.time_ns()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-watch", daemon=True)

    def __enter__(self) -> ModelWatch:
        self._folder.path.mkdir(parents=True, exist_ok=True)
        self._server.models_folder = str(self._folder.path.resolve())
        if self._status["fit"] != self._source.fit:
            self._status |= {"fit": self._source.fit, "files": {}}
        self._status["server"] = this_process()
        for slot, version in self._server.models().items():
            entry = self._status["slots"].get(slot)
            if entry is None or (not entry["file"] and entry["version"] != version):
                self._status["slots"].pop(slot, None)
                note_served(self._status, slot, version, "")
        self.look()
        for slot, version in self._server.models().items():  # a file that was served before may be gone
            if self._status["slots"][slot]["version"] != version:
                note_served(self._status, slot, version, "")
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(_END_S)
        if self._thread.is_alive():  # it hangs on the device; the status is its own
            return
        self._status["server"] = None
        self._write()

    def _run(self) -> None:
        with suppress(OSError, AttributeError):  # on Linux the priority of this thread alone, elsewhere no such call
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._ending.wait(LOOK_S):
            self.look()
            self._server.tidy()

    def look(self) -> None:
        """Serve what is newest now, slot by slot, where anything has changed."""
        for slot in self._server.models():
            changed_ns = self._folder.changed_ns(slot)
            fresh = time.time_ns() - changed_ns < _SETTLED_S * 1e9
            if changed_ns != self._seen_ns.get(slot) or fresh or slot in self._pending:
                self._seen_ns[slot] = changed_ns
                self._pending.discard(slot)
                self._look_at(slot)
        if self._unwritten:
            self._write()

    def _look_at(self, slot: str) -> None:
        for found in self._folder.files(slot):
            if (found.mtime_ns, found.name) <= self._taken.get(slot, (0, "")):
                return  # it is served, and so is whatever is older out of the question
            if self._take(slot, found):
                return

    def _take(self, slot: str, found: FoundModel) -> bool:
        """Serve a file if it is any good; return whether nothing older need be looked at."""
        place = found.name, found.size, found.mtime_ns
        if place in self._failed:
            return False
        try:
            if not self._is_whole(found, place):
                self._pending.add(slot)
                return False
            digest = self._digest(found)
            known = self._known(digest)
            if known is not None and not known.good:
                self._note(found, digest, known)
                return False
            return self._serve(slot, found, digest, known)
        except OSError as error:  # it may be readable in a moment
            self._pending.add(slot)
            self._say(f"model {found.path} cannot be read ({error.strerror})")
        except Exception as error:  # such as no memory for it: says nothing about the file
            self._failed.add(place)
            self._say(f"model {found.path} is not taken: {type(error).__name__}: {error}")
        return False

    def _serve(self, slot: str, found: FoundModel, digest: str, known: _Verdict | None) -> bool:
        place = found.name, found.size, found.mtime_ns
        try:
            model = self._loaded[1] if self._loaded and self._loaded[0] == place else self._load(found)
            self._loaded = None
            if model.version != self._server.models()[slot]:
                if not self._server.swap(model, slot, tried=known is not None):
                    self._loaded = place, model
                    self._pending.add(slot)
                    return True
                self._say(f"model {model.version} from {found.path} serves slot {slot}")
        except ModelError as error:
            self._server.count_error("refused_model")
            self._note(found, digest, _Verdict(False, str(error), ""))
            self._say(f"model {found.path} is refused, slot {slot} keeps its model: {error}")
            return False
        self._taken[slot] = found.mtime_ns, found.name
        self._keep_start(slot, found)
        note_served(self._status, slot, model.version, found.name)
        self._note(found, digest, _Verdict(True, "", model.version))
        return True

    def _load(self, found: FoundModel) -> Any:
        """Return the model in a file that did not change meanwhile: its digest was taken before. Raises OSError."""
        try:
            return self._source.load(found.path)
        finally:
            facts = found.path.stat()
            if (facts.st_size, facts.st_mtime_ns) != (found.size, found.mtime_ns):
                raise OSError(errno.EAGAIN, "it changed while it was read")

    def _is_whole(self, found: FoundModel, place: _Place) -> bool:
        if is_whole(found.path):
            return True
        since = self._short.setdefault(place, time.monotonic())
        return time.monotonic() - since > _PATIENCE_S

    def _keep_start(self, slot: str, found: FoundModel) -> None:
        """Before the first change, keep the model that a slot began with as a file, for a rollback."""
        served = self._status["slots"].get(slot)
        if served is None or served["file"]:
            return
        path = found.path.with_name(f"start-{served['version']}.safetensors")
        with suppress(OSError, ModelError):  # without it a rollback has one model fewer to go back to
            self._source.save_start(served["version"], path)
            before_ns = min(self._started_ns, found.mtime_ns - 1)
            os.utime(path, ns=(before_ns, before_ns))
            served["file"] = path.relative_to(self._folder.path).as_posix()

    # What is known of files

    def _digest(self, found: FoundModel) -> str:
        entry = self._status["files"].get(found.name)
        if entry and (entry["size"], entry["mtime_ns"]) == (found.size, found.mtime_ns):
            return str(entry["sha256"])
        return file_digest(found.path)

    def _known(self, digest: str) -> _Verdict | None:
        for entry in self._status["files"].values():
            if entry["sha256"] == digest:
                return _Verdict(entry["good"], entry["reason"], entry["version"])
        return None

    def _note(self, found: FoundModel, digest: str, verdict: _Verdict) -> None:
        entry = {"size": found.size, "mtime_ns": found.mtime_ns, "sha256": digest, **verdict._asdict()}
        if self._status["files"].get(found.name) != entry:
            self._status["files"][found.name] = entry
            self._unwritten = True

    def _write(self) -> None:
        self._unwritten = False
        files = self._status["files"]
        self._status["files"] = {name: files[name] for name in files if (self._folder.path / name).exists()}
        try:
            self._folder.write_status(self._status)
        except OSError as error:
            self._say(f"nothing can be noted in {self._folder.path} ({error.strerror}); its models are served anyway")

    def _say(self, text: str) -> None:
        """Tell people, each thing once."""
        if text not in self._said:
            self._said.add(text)
            self._server.tell_problem(text)
