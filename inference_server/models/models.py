"""Taking a new model while the server works: it is made ready and tried beside the lanes, then its slot moves to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.lanes import Backend
from grove.inference_server.batching.slots import DEFAULT

_MOST_ALIVE = 3
"""Models of one slot held at once: the next one waits until the rows, or `between-games` the games, of one are over."""


class Models:
    """The models of all slots, on all lanes."""

    def __init__(self, batcher: Batcher, backends: Sequence[Backend]) -> None:
        self._batcher, self._backends = batcher, backends
        self._lock = threading.Lock()  # one model at a time
        self._next_key = 1
        self._versions = {DEFAULT: backends[0].version_of()}
        self.taken = 0
        """Models taken since the start."""

    def versions(self) -> dict[str, str]:
        """Return the model of every slot: name to content hash."""
        return dict(self._versions)

    def take(self, model: Any, name: str, tried: bool = False) -> bool:
        """Serve `model` in slot `name` from now on; return False when the slot holds too many former ones yet.

        `tried`: the same model computed a trial batch earlier.

        Raises:
            ModelError: it does not fit, or its answers are no use; nothing has changed.
        """
        with self._lock:
            self.tidy()
            if self._batcher.models_alive(name) >= _MOST_ALIVE:
                return False
            weights = [backend.prepare(model) for backend in self._backends]
            if not tried:
                self._backends[0].try_out(weights[0])
            key, self._next_key = self._next_key, self._next_key + 1
            for backend, its in zip(self._backends, weights, strict=True):
                backend.install(key, its)
            self._batcher.move_slot(name, key)
            self._versions[name] = self._backends[0].version_of(key)
            self.taken += 1
            return True

    def tidy(self) -> None:
        """Give up former models whose last row was answered."""
        for key in self._batcher.free_keys():
            for backend in self._backends:
                backend.remove(key)
