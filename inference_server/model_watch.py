"""Watching a folder of model files while a server works: the newest one that is any good is served.

A file is loaded, checked and tried by a thread of its own; the lanes go on meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from grove.common.errors import ModelError
from grove.inference_server.models.model_folder import FoundModel, ModelFolder, Process, Verdict
from grove.inference_server.server import InferenceServer

LOOK_S = 0.25
"""Seconds between two looks at the folder."""
_SETTLED_NS = 2_000_000_000
"""Age from which a change is the last one: no second one can hide behind the same time stamp, no writer is at work."""
_NICENESS = 5
_END_S = 5.0
"""Longest wait for a model that is being looked at when the server ends; the thread ends with the process."""


class Source(Protocol):
    """Where models come from; `backend.ModelFiles` is the real one."""

    def load(self, path: Path) -> Any:
        """Return the model in a file, with its `version`. Raises ModelError."""
        ...

    def save_start(self, version: str, path: Path) -> None:
        """Write the model `version`, which a name began with, to a file. Raises OSError, ModelError when it is gone."""
        ...


class ModelWatch:
    """Serves the newest good model of a folder in an `InferenceServer`; a context manager.

    Entering takes a first look at once, so that a server which was started again goes on with the model it had.
    """

    def __init__(self, server: InferenceServer, folder: Path, source: Source) -> None:
        self._server, self._source = server, source
        self._folder = ModelFolder(folder)
        self._status = self._folder.read_status()
        self._seen_ns: dict[str, int] = {}  # model -> change of its folder at the last look
        self._taken: dict[str, FoundModel] = {}  # model -> the file it is served from
        self._refused: set[FoundModel] = set()  # by this server
        self._said: set[str] = set()
        self._started_ns = time.time_ns()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-watch", daemon=True)

    def __enter__(self) -> ModelWatch:
        self._folder.path.mkdir(parents=True, exist_ok=True)
        self._server.models_folder = str(self._folder.path.resolve())
        self._status.server = Process.this()
        for model, version in self._server.models().items():
            served = self._status.served.get(model)
            if not served or (not served[-1].file and served[-1].version != version):
                self._status.served[model] = []
                self._status.note_served(model, version, "")
        self.look()
        for model, version in self._server.models().items():
            if self._status.served[model][-1].version != version:  # the file that was served before is gone
                self._status.note_served(model, version, "")
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(_END_S)
        if self._thread.is_alive():  # it hangs on the device; the status is its own
            return
        self._status.server = None
        self._write()

    def _run(self) -> None:
        with suppress(OSError, AttributeError):  # on Linux the priority of this thread alone, elsewhere no such call
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._ending.wait(LOOK_S):
            self.look()
            self._server.tidy()

    def look(self) -> None:
        """Serve what is newest now, model by model, where anything has changed."""
        for model in self._server.models():
            changed_ns = self._folder.changed_ns(model)
            if changed_ns != self._seen_ns.get(model):
                if time.time_ns() - changed_ns > _SETTLED_NS:
                    self._seen_ns[model] = changed_ns
                self._look_at(model)

    def _look_at(self, model: str) -> None:
        for found in self._folder.files(model):
            if model in self._taken and found[:2] <= self._taken[model][:2]:
                return  # it is served, and so is whatever is older out of the question
            if found not in self._refused and self._take(model, found):
                return

    def _take(self, model: str, found: FoundModel) -> bool:
        """Serve a file if it is any good; return whether it was taken."""
        try:
            loaded = self._source.load(found.path)
            if loaded.version != self._server.models()[model]:
                self._server.swap(loaded, model)
                self._say(f"model {loaded.version} from {found.path} serves {model}")
        except Exception as error:
            if time.time_ns() - found.mtime_ns < _SETTLED_NS:  # perhaps somebody writes it: looked at again
                self._seen_ns.pop(model, None)
                return False
            reason = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
            self._refused.add(found)
            self._server.count_error("refused_model")
            self._say(f"model {found.path} is refused, {model} keeps its model: {reason}")
            self._note(found, "", reason)
            return False
        self._taken[model] = found
        self._keep_start(model, found)
        self._status.note_served(model, loaded.version, found.name)
        self._note(found, loaded.version, "")
        return True

    def _keep_start(self, model: str, found: FoundModel) -> None:
        """Before the first change, keep the model that a name began with as a file, for a rollback."""
        served = self._status.served[model][-1]
        if served.file:
            return
        path = found.path.with_name(f"start-{served.version}.safetensors")
        with suppress(OSError, ModelError):  # without it a rollback has one model fewer to go back to
            self._source.save_start(served.version, path)
            before_ns = min(self._started_ns, found.mtime_ns - 1)
            os.utime(path, ns=(before_ns, before_ns))
            served.file = path.relative_to(self._folder.path).as_posix()

    def _note(self, found: FoundModel, version: str, reason: str) -> None:
        self._status.files[found.name] = Verdict(found.mtime_ns, version, reason)
        self._write()

    def _write(self) -> None:
        files = self._status.files
        self._status.files = {name: files[name] for name in files if (self._folder.path / name).exists()}
        try:
            self._folder.write_status(self._status)
        except OSError as error:
            self._say(f"nothing can be noted in {self._folder.path} ({error.strerror}); its models are served anyway")

    def _say(self, text: str) -> None:
        """Tell people, each thing once."""
        if text not in self._said:
            self._said.add(text)
            self._server.tell_problem(text)
