"""`grove profile`: the same load three times, each with one instrument, so that none is measured through another.

stages    timers around the stages of worker and server, by wall clock and processor
cProfile  the loop of one worker, function by function; it slows that worker down
py-spy    flame graphs and holders of the interpreter lock, sampled from outside; before it an undisturbed slice
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from grove.bench.core.compare import PROBE_S
from grove.bench.core.probe import burn_probe
from grove.bench.core.rounds import Probed
from grove.bench.core.slices import OthersUse, Slice, WarmPool
from grove.bench.profile import children
from grove.bench.profile.children import replaced
from grove.bench.profile.spy import Sampled, Sampling, find_py_spy, gil_shares
from grove.bench.profile.stages import switch_seconds
from grove.workers.pool import server_entry, worker_entry
from grove.workers.pool.plan import PoolPlan

SETTLE_S = 0.3
"""Seconds of a slice that is thrown away: the counters of the next one begin at its end."""
PSTATS = "worker.pstats"
NO_PY_SPY = "py-spy is not installed; `pip install 'grove-selfplay[profile]'` brings it"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Beside(Probed):
    """What the machine did beside a pass."""

    others_cpu: float | None
    """Processors that other programs used meanwhile; None where a CPU quota hides it."""


@dataclass
class Profiled:
    """What the three passes found."""

    pool: str = ""
    """`thread` or `process`."""
    workers: int = 0
    games_per_worker: int = 0
    groups: int = 0
    staged: Slice | None = None
    """The slice with stage timers."""
    watched: Slice | None = None
    """The slice with cProfile in one worker."""
    plain: Slice | None = None
    """The undisturbed slice."""
    beside: list[Beside] = field(default_factory=list)
    """One a pass, in their order."""
    switch_s: float = 0.0
    """What timing one call costs."""
    ready: dict[str, Any] = field(default_factory=dict)
    """What the server said when it was ready; empty without one."""
    flames: Sampled = field(default_factory=Sampled)
    gil: dict[str, dict[str, float]] = field(default_factory=dict)
    """Process -> thread -> share of the time in which it held the interpreter lock."""
    gil_faults: dict[str, str] = field(default_factory=dict)
    py_spy_fault: str = ""
    """Why there is nothing of py-spy; empty when there is."""


def run_profile(plan: PoolPlan, out: Path, seconds: float, say: Say) -> Profiled:
    """Run the three passes, `seconds` of measuring in all; files go to `out`, games below `out`/games.

    Raises PoolError when the pool cannot work.
    """
    found = Profiled(switch_s=switch_seconds())
    found.staged = _pass_stages(plan, out, seconds / 2, found)
    say(f"stages: {seconds / 2:.1f} s, {found.staged.evaluations_per_second:,.0f} evaluations/s")
    found.watched = _pass_cprofile(plan, out, seconds / 4, found)
    say(f"cProfile: {seconds / 4:.1f} s, {found.watched.evaluations_per_second:,.0f} evaluations/s")
    found.plain = _pass_py_spy(plan, out, seconds / 4, found)
    say(f"undisturbed: {seconds / 8:.1f} s, {found.plain.evaluations_per_second:,.0f} evaluations/s")
    say(f"py-spy: {found.py_spy_fault or ', '.join(found.flames.files.values())}")
    return found


def _pass_stages(plan: PoolPlan, out: Path, seconds: float, found: Profiled) -> Slice:
    with _mains(children.timed_worker_main, children.timed_host_main), _warm("stages", plan, out) as warm:
        done = _play(warm, seconds, found, SETTLE_S)
        pool = warm.pool
        found.pool, found.ready = pool.pool_kind, dict(pool.server_ready)
        found.workers, found.games_per_worker = pool.sizes.workers, pool.sizes.games
        found.groups = pool.sizes.groups
    return done


def _play(warm: WarmPool, seconds: float, found: Profiled, settle_s: float = 0.0) -> Slice:
    """Play the slice of a pass, right after one that is thrown away, and note what the machine did beside it."""
    before, others = burn_probe(PROBE_S), OthersUse()
    if settle_s:
        warm.play(settle_s)  # after the probe, whose time would count as the server's waiting
    done = warm.play(seconds)
    used = others.look()
    found.beside.append(Beside((before, burn_probe(PROBE_S)), used))
    return done


def _pass_cprofile(plan: PoolPlan, out: Path, seconds: float, found: Profiled) -> Slice:
    path = str(out.resolve() / PSTATS)
    mains = partial(children.watched_worker_main, path), partial(children.watched_host_main, path)
    with _mains(*mains), _warm("cprofile", plan, out) as warm:
        return _play(warm, seconds, found)


def _pass_py_spy(plan: PoolPlan, out: Path, seconds: float, found: Profiled) -> Slice:
    with _warm("py-spy", plan, out) as warm:
        plain = _play(warm, seconds / 2, found)
        program = find_py_spy()
        if program is None:
            found.py_spy_fault = NO_PY_SPY
            return plain
        length = max(1, round(seconds / 2))
        found.flames = _sample(warm, program, out, length, gil=False)
        held = _sample(warm, program, out, length, gil=True)
        for name, file in held.files.items():
            found.gil[name] = gil_shares((out / file).read_text(encoding="utf-8"), length)
        found.gil_faults = held.faults
        if not found.flames.files:
            found.py_spy_fault = "; ".join(f"{name}: {why}" for name, why in found.flames.faults.items())
    return plain


def _sample(warm: WarmPool, program: str, out: Path, seconds: int, gil: bool) -> Sampled:
    """Play while py-spy records for `seconds`; it needs about a second to begin."""
    sampling = Sampling(program, _processes(warm), out, seconds, gil)
    try:
        warm.play(seconds + 1.0)
        return sampling.end()
    except BaseException:
        sampling.kill()
        raise


def _processes(warm: WarmPool) -> dict[str, int]:
    """Return the first worker's and the server's process; search threads live in the server's."""
    numbers, has_server = list(warm.pool.processes), bool(warm.pool.server_ready)
    out = {"server": numbers[-1]} if has_server else {}
    return {"worker": numbers[0], **out} if len(numbers) > has_server else out


@contextmanager
def _mains(worker_main: Callable[..., None], host_main: Callable[..., None]) -> Iterator[None]:
    """Let pools start their processes with these main functions."""
    with replaced(worker_entry, "main", worker_main), replaced(server_entry, "main", host_main):
        yield


@contextmanager
def _warm(name: str, plan: PoolPlan, out: Path) -> Iterator[WarmPool]:
    with WarmPool(name, replace(plan, games_folder=out / "games" / name)) as warm:
        warm.start()
        yield warm
