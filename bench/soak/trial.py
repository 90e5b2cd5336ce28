"""What the faults of a soak have in common: what they may use, and by what it is seen that a run has recovered."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from grove.bench.soak.check import Served
from grove.bench.soak.look import Observation, Watch
from grove.bench.soak.models import MadeModels
from grove.bench.soak.run import RunUnderTest
from grove.common.errors import GroveError

Recovery = Callable[[Observation | None], bool]
"""Whether a look at the run (None: no server answers) shows that it has recovered; raises Unrecovered if it cannot."""

FULL = 0.9
"""Share of the rows of a batch before the fault from which batches count as full again."""
BEFORE_S = 5.0
_WINDOW_S = 0.3


class Unrecovered(GroveError):
    """The run has not recovered from a fault and will not."""


class NotNow(GroveError):
    """The fault cannot be injected at this moment; the text says why."""


@dataclass
class FaultTrial:
    """What a fault may use."""

    run: RunUnderTest
    watch: Watch
    draw: random.Random
    models: MadeModels
    served: list[Served]
    """The models in the order in which it was given them; one that came back is there again."""
    _pushed: int = 0

    def victim(self, role: str) -> psutil.Process:
        """Return a process of that role, drawn at random. Raises NotNow when there is none."""
        found = self.run.roles()[role]
        if not found:
            raise NotNow(f"there is no {role} now")
        return self.draw.choice(sorted(found, key=lambda process: process.pid))

    def next_model(self) -> tuple[str, Path]:
        """Return content hash and file of the next model to push; after the last comes the first."""
        self._pushed += 1
        return self.models.files[(self._pushed - 1) % len(self.models.files)]

    def serves(self, version: str) -> Recovery:
        """Call it just before a model is given; then: the server says that it serves it."""
        given = Served(version, time.monotonic())
        self.served.append(given)

        def sign(look: Observation | None) -> bool:
            if look is None or look.model != version:
                return False
            given.taken_at = given.taken_at or look.time
            return True

        return sign


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    does: str
    """In words, for the table."""
    inject: Callable[[FaultTrial], Recovery]
    """Do it, and say how the recovery is seen. Raises NotNow."""
    recovered_at: str
    """What the time to recover is measured to, in words."""
    limit_s: float = 90.0
    """Longest time to recover."""
    waits_s: float = 10.0
    """Longest wait until it is possible; then it is passed over."""
    impossible: Callable[[], str] = lambda: ""
    """Why it cannot be injected on this machine at all, or nothing."""


# How recovery is seen


def full_batch(trial: FaultTrial) -> Recovery:
    """Call it before the fault; then: a new process, as many live clients and as full batches as before."""
    before, rows = trial.watch.last, trial.watch.batch_rows(BEFORE_S)
    if before is None or not rows:
        raise NotNow("the server has not computed yet")
    known = {process.pid for process in trial.run.members()}
    since = time.monotonic()

    def sign(look: Observation | None) -> bool:
        if look is None or look.live_clients < before.live_clients or look.time - since < _WINDOW_S:
            return False
        replaced = any(process.pid not in known for process in trial.run.members())
        return replaced and trial.watch.batch_rows(_WINDOW_S) >= FULL * rows

    return sign


def first_batch(trial: FaultTrial) -> Recovery:
    """Call it before the fault; then: another life of the server has computed a batch."""
    since = time.monotonic()
    return lambda look: look is not None and look.uptime_s < look.time - since and look.batches > 0


def goes_on(trial: FaultTrial) -> Recovery:
    """Batches are computed by the same life of the server."""
    last = trial.watch.last
    batches = last.batches if last else 0
    return lambda look: look is not None and look.batches > batches


def in_background(work: Callable[[], object]) -> Recovery:
    """Do what takes long beside the looks; recovered when it has ended. Its errors are failures to recover."""
    faults: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            faults.append(error)

    thread = threading.Thread(target=run, name="fault")
    thread.start()

    def sign(look: Observation | None) -> bool:
        if faults:
            raise Unrecovered(str(faults[0]))
        return look is not None and not thread.is_alive()

    return sign
