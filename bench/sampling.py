"""What sampling costs a run: one warm pool plays slices in turn with and without looks at processes and devices.

    python -m grove.bench.sampling connect_four --seconds 120
    python -m grove.bench.sampling connect_four --pool process --workers 32

A look is what a run does once an interval for its metrics (`grove.workers.pool.sampler`). Here they come far more
often, so that what they cost rises above the noise; the figure is what is left of it at the run's own interval. Slices
of both kinds are paired; the share lost is the median over pairs, beside the processor time of a look itself.
"""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from grove.bench.core.modes import Asked, pool_plan
from grove.bench.core.rounds import Spread
from grove.bench.core.slices import Slice, WarmPool
from grove.common.errors import PoolError
from grove.game import load_game
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings, resolve_network
from grove.mcts import SearchSettings
from grove.workers.pool.sampler import INTERVAL_S, Sampler
from grove.workers.pool.settings import PoolSettings
from grove.workers.selfplay.evaluators import row_spec

LEAST_PAIRS = 5


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to measure."""

    seconds: float = 120.0
    """Seconds of measuring; starting and warming the pool comes on top."""
    slice_seconds: float = 2.0
    """Seconds of one slice."""
    every: float = 0.1
    """Seconds between two looks in the slices with them."""
    pool: Literal["thread", "process"] = "thread"
    """Kind of pool; worker processes are looked at one by one."""
    workers: int = 0
    """Workers; 0 = as a run would take."""


class Cost(NamedTuple):
    """What was found."""

    lost: Spread
    """Share of the evaluations lost by looks every `every` seconds, over pairs; below 0 is noise."""
    look_cpu_s: float
    """Processor seconds of one look."""
    looks: int
    pairs: int


class Looking:
    """Looks at the pool's processes and devices every now and then, in a thread of its own, while in use."""

    def __init__(self, sampler: Sampler, every_s: float) -> None:
        self._sampler, self._every_s = sampler, every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.looks, self.cpu_s = 0, 0.0

    def __enter__(self) -> Looking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            began = time.thread_time()
            self._sampler.look()
            self.cpu_s += time.thread_time() - began
            self.looks += 1


def measure(warm: WarmPool, asked: Sampling) -> Cost:
    """Play pairs of slices on a started pool and return what the looks cost.

    Raises:
        PoolError: too few pairs fit into the time, or the pool died.
    """
    pairs = int(asked.seconds / (2 * asked.slice_seconds))
    if pairs < LEAST_PAIRS:
        raise PoolError(f"{pairs} pairs of slices are too few, {LEAST_PAIRS} are needed; give more --seconds")
    lost, looks, cpu_s = [], 0, 0.0
    with closing(Sampler(warm.pool, load_game(warm.pool.plan.game_spec).units)) as sampler:
        for number in range(pairs):
            rates: dict[bool, float] = {}
            for looked in (True, False) if number % 2 else (False, True):
                if looked:
                    with Looking(sampler, asked.every) as looking:
                        rates[looked] = _rate(warm.play(asked.slice_seconds))
                    looks, cpu_s = looks + looking.looks, cpu_s + looking.cpu_s
                else:
                    rates[looked] = _rate(warm.play(asked.slice_seconds))
            lost.append(1 - rates[True] / rates[False])
    return Cost(Spread.of(lost), cpu_s / max(looks, 1), looks, pairs)


def _rate(done: Slice) -> float:
    if not done.evaluations_per_second:
        raise PoolError("a slice evaluated nothing; give longer --slice-seconds")
    return done.evaluations_per_second


def warm_pool(spec: str, asked: Sampling, folder: Path) -> WarmPool:
    """Return the pool of a usual run of `spec`, not started; games go below `folder`."""
    network, _ = resolve_network(NetworkSettings(), row_spec(load_game(spec)))
    plan = pool_plan(
        Asked(
            game_spec=spec,
            modes=(),
            seconds=asked.seconds,
            out=folder,
            seed=0,
            search=SearchSettings(),
            pool=PoolSettings(workers=asked.workers),
            network=network,
            server=ServerSettings(),
            probe_limit=1.0,
        ),
        f"server-{asked.pool}",
    )
    return WarmPool("sampling", plan)


def main() -> None:
    """Parse, measure, print."""
    spec, asked = tyro.cli(tuple[tyro.conf.Positional[str], Sampling], config=(tyro.conf.OmitArgPrefixes,))
    with tempfile.TemporaryDirectory(prefix="grove-sampling-") as folder, warm_pool(spec, asked, Path(folder)) as warm:
        warm.start()
        sizes = warm.pool.sizes
        cost = measure(warm, asked)
    share = asked.every / INTERVAL_S
    print(
        f"{spec}, {asked.pool} pool, {sizes.workers} workers: a look takes {cost.look_cpu_s * 1e3:.2f} ms of processor "
        f"time ({cost.looks} looks)\n"
        f"looks every {asked.every:g} s lose {cost.lost.median:.2%} of the evaluations [{cost.lost.low:.1%}, "
        f"{cost.lost.high:.1%}] over {cost.pairs} pairs; every {INTERVAL_S:g} s, as a run does, "
        f"{cost.lost.median * share:.3%}"
    )


if __name__ == "__main__":
    main()
