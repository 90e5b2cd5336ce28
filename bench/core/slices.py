"""A mode under measurement: a warm pool that plays for one slice when told and holds still otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import psutil

from grove.bench.core.counting import difference
from grove.bench.core.gpu_watch import NO_GPU, GpuWatch
from grove.common.errors import PoolError
from grove.common.usage import GpuUse, MachineUse
from grove.inference_server.interface import stats as server_stats
from grove.workers.pool.plan import PoolPlan
from grove.workers.pool.pool import Pool
from grove.workers.pool.sampler import gpus_used
from grove.workers.selfplay.game_scheduler import GameScheduler

ENDLESS = 1 << 40
"""Games of a mode's scheduler: more than any measurement plays."""
WARM_S = 1.0
"""Seconds of playing before a mode counts as warm, from its first evaluations on."""
_START_S = 600.0
"""Longest wait for all workers of a mode to be ready and evaluating: compilation included."""
_REST_S = 60.0
"""Longest wait for a paused pool's last answers."""
_QUIET_S = 300.0
"""Longest wait for background work, such as compilation, of a paused pool."""
_QUIET_SHARE = 0.05
"""Processors that a quiet pool may use."""


@dataclass(frozen=True)
class Slice:
    """What one mode did in one slice.

    The clock runs from the order to go on until the last worker is at rest: what was evaluated was timed, the filling
    and the emptying of the pipeline included.
    """

    seconds: float
    workers: dict[str, float]
    """Workers' counts, all workers together."""
    server: dict[str, Any]
    """The server's counters; empty without a server."""
    cpu_seconds: float = 0.0
    """Processor seconds that the mode's processes used."""
    gpus: dict[str, float | None] = field(default_factory=NO_GPU.copy)
    """How busy the GPUs were that it used: see `grove.bench.core.gpu_watch`."""

    @property
    def evaluations_per_second(self) -> float:
        """Rows that the network computed, per second."""
        return self.workers.get("evaluations", 0) / self.seconds

    @property
    def simulations_per_second(self) -> float:
        """Descents per second."""
        return self.workers.get("simulations", 0) / self.seconds


class Contender(Protocol):
    """What is measured in slices: a warm pool, or processes of another project, that hold still in between."""

    name: str

    @property
    def processes(self) -> list[int]:
        """Numbers of its processes; their children belong to it too."""
        ...

    def play(self, seconds: float) -> Slice:
        """Work for one slice and return what was done in it."""
        ...

    def look_after(self) -> None:
        """Handle what it has to say between slices."""
        ...


class WarmPool:
    """One mode's pool; use as a context manager around `start`."""

    def __init__(self, name: str, plan: PoolPlan) -> None:
        """Nothing is started; games go to `plan.games_folder`."""
        self.name = name
        self.pool = Pool(plan, GameScheduler(range(ENDLESS)))
        self._workers: dict[str, float] = {}
        self._server: dict[str, Any] = {}

    def start(self) -> None:
        """Start, wait until all workers are ready and rows flow, play `WARM_S`, pause, and wait until all is quiet.

        Raises PoolError, with the children's words, when the pool cannot work.
        """
        self.pool.plan.games_folder.mkdir(parents=True, exist_ok=True)
        self.pool.start()
        self._until(self._flowing, _START_S, "evaluate anything")
        self._pump_for(WARM_S)
        self._rest()
        self._wait_until_quiet()

    @property
    def processes(self) -> list[int]:
        """Numbers of the living processes."""
        return self.pool.processes

    def play(self, seconds: float) -> Slice:
        """Play for one slice and return what was done in it."""
        with GpuWatch(GpuUse(gpus_used(self.pool))) as gpus:
            used, began = cpu_seconds(self.pool.processes), time.perf_counter()
            self.pool.resume()
            self._pump_for(seconds)
            ended = self._rest()
        used = cpu_seconds(self.pool.processes) - used
        workers, server = self.pool.totals(), dict(self.pool.server_stats)
        before = self._workers, self._server
        self._workers, self._server = workers, server
        if before[1].get("epoch") != server.get("epoch"):
            raise PoolError(f"{self.name}: the server was started again in mid-slice: {self.pool.problems[-1]}")
        done = server_stats.difference(server, before[1]) if "batches" in server else {}
        return Slice(ended - began, difference(workers, before[0]), done, used, gpus.figures())

    def look_after(self) -> None:
        """Handle what the paused pool has to say; raises PoolError when it died."""
        self.pool.pump(0)

    def __enter__(self) -> WarmPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.stop()

    def _flowing(self) -> bool:
        pool = self.pool
        return pool.ready >= pool.sizes.workers and pool.totals().get("evaluations", 0) > 0

    def _rest(self) -> float:
        """Pause, wait for rest, take the counters; return when the last worker came to rest."""
        self.pool.pause()
        self._until(lambda: self.pool.at_rest, _REST_S, "come to rest")
        ended = time.perf_counter()
        self.pool.pump(0)
        if self.pool.server_stats:
            former = self.pool.server_stats
            self.pool.ask_report()
            self._until(lambda: self.pool.server_stats is not former, _REST_S, "report its counters")
        self._workers = self._workers or self.pool.totals()
        self._server = self._server or dict(self.pool.server_stats)
        return ended

    def _wait_until_quiet(self) -> None:
        def quiet() -> bool:
            before = cpu_seconds(self.pool.processes)
            self._pump_for(0.3)
            return cpu_seconds(self.pool.processes) - before < 0.3 * _QUIET_SHARE

        self._until(lambda: quiet() and quiet(), _QUIET_S, "hold still")

    def _until(self, condition: Any, limit_s: float, what: str) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise PoolError(f"{self.name} did not {what} within {limit_s:.0f} s")
            self.pool.pump(0.05)

    def _pump_for(self, seconds: float) -> None:
        deadline = time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            self.pool.pump(left)


def cpu_seconds(processes: Iterable[int]) -> float:
    """Return the processor seconds that the processes and their children have used so far; dead ones count nothing.

    One look at all processes of the machine, however many are asked for: hundreds of paused workers are.
    """
    wanted = set(processes)
    living = {process.pid: process.info for process in psutil.process_iter(["ppid", "cpu_times"])}

    def belongs(number: int) -> bool:
        while number in living and number not in wanted:
            number = living[number]["ppid"]
        return number in living

    times = [info["cpu_times"] for number, info in living.items() if info["cpu_times"] and belongs(number)]
    return float(sum(used.user + used.system for used in times))


class OthersUse:
    """Processors that programs other than this one and its children take, from its making to `look`."""

    def __init__(self) -> None:
        self._machine, self._began = MachineUse(), time.monotonic()
        self._own = cpu_seconds([os.getpid()])
        self._machine.look()

    def look(self) -> float | None:
        """Return the mean since the making; None where a CPU quota hides it."""
        busy, seconds = self._machine.look(), time.monotonic() - self._began
        own = cpu_seconds([os.getpid()]) - self._own
        return None if busy is None else max(0.0, busy - own / seconds)
