"""Taking a new model while the server works: it is made ready and tried beside the lanes, then its name moves to it.

Weights are never overwritten: every model that is taken gets a number of its own in the backends, and a request belongs
to one set of weights from its arrival to its answer, however many batches it is split over. So an answer never mixes
two models, no lane has to be parked, and former weights are given up once none of their rows is left.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from grove.inference_server.batching.batcher import Batcher
from grove.inference_server.batching.lanes import Backend
from grove.inference_server.interface.client import DEFAULT


class Models:
    """The models by name, on all lanes."""

    def __init__(self, batcher: Batcher, backends: Sequence[Backend]) -> None:
        self._batcher, self._backends = batcher, backends
        self._lock = threading.Lock()  # one model at a time
        self._versions = {DEFAULT: backends[0].version_of()}
        self._held = [0]  # numbers of the weights that the backends hold
        self.taken = 0
        """Models taken since the start."""

    def versions(self) -> dict[str, str]:
        """Return the models by name, each with its content hash."""
        return dict(self._versions)

    def take(self, model: Any, name: str) -> None:
        """Serve `model` under `name` from now on.

        Raises:
            ModelError: it does not fit, or its answers are no use; nothing has changed.
        """
        with self._lock:
            prepared = [backend.prepare(model) for backend in self._backends]
            self._backends[0].try_out(prepared[0])
            self.taken += 1
            weights = self.taken
            for backend, its in zip(self._backends, prepared, strict=True):
                backend.install(weights, its)
            self._held.append(weights)
            self._batcher.serve(name, weights)
            self._versions[name] = self._backends[0].version_of(weights)
            self._tidy()

    def tidy(self) -> None:
        """Give up former models whose last row was answered."""
        with self._lock:
            self._tidy()

    def _tidy(self) -> None:
        for weights in [weights for weights in self._held if not self._batcher.uses(weights)]:
            self._held.remove(weights)
            for backend in self._backends:
                backend.remove(weights)
