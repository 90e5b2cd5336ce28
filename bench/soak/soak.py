"""Harm a run again and again and see whether it loses a game: phases, the drawing of faults, the exact end.

One run goes through rest, kills, rest, other faults, rest and so on. Its rate in a phase of kills is compared with that
of the rests on both sides. At the end it is stopped, the same command finishes all games up to the highest index, and
the records are checked.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from grove.bench.soak.check import Check, Served, check_games
from grove.bench.soak.faults import FAULTS, KILLS, release
from grove.bench.soak.look import Observation, Watch
from grove.bench.soak.memory import Sample
from grove.bench.soak.models import MadeModels
from grove.bench.soak.run import RunUnderTest, Written
from grove.bench.soak.trial import Fault, FaultTrial, NotNow, Recovery, Unrecovered
from grove.common.errors import PoolError
from grove.game import load_game

REST, KILL, OTHER = "rest", "kills", "others"
_CYCLE_S = 180.0
_SHARES = ((REST, 1), (KILL, 2), (REST, 1), (OTHER, 2))
"""Phases of a cycle and their lengths."""
_LAST_S = 120.0
"""Longest rest at the end, a tenth of all at most: lives that nothing ends, so that their memory tells something."""
_SLOW_S, _FAST_S = 0.25, 0.05
"""Seconds between looks: at rest, and while a recovery is timed."""
_GAMES_S, _MEMORY_S = 0.5, 1.0
_PAUSE_S = 0.5
"""Rest between two faults that are not kills."""
_START_S, _END_S = 300.0, 300.0
_GONE_S = 10.0
"""Longest time that processes and files may take to go after the end; a child without supervisor takes three."""
_MANY = 1 << 40


@dataclass(frozen=True, kw_only=True)
class SoakAsked:
    """What is asked for; resolved."""

    game_spec: str
    load: Path
    """TOML file with the settings of the run."""
    out: Path
    seed: int
    """Of the run's games and of the faults."""
    seconds: float
    every_s: float
    """Seconds between two kills."""
    faults: tuple[str, ...]
    models: MadeModels


@dataclass(frozen=True)
class Injected:
    """One fault and what became of it."""

    name: str
    at_s: float
    """Seconds since the start of the soak."""
    recovered_s: float | None
    """None: it has not recovered."""
    why: str = ""


@dataclass(frozen=True)
class Phase:
    """What was played in one phase."""

    kind: str
    seconds: float
    games: int
    evaluations: int


@dataclass
class Soaked:
    """All that was found."""

    injected: list[Injected] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Faults that cannot be injected here, with the reason."""
    phases: list[Phase] = field(default_factory=list)
    memory: dict[str, list[list[Sample]]] = field(default_factory=dict)
    """Role to the samples of each life."""
    ended_early: list[str] = field(default_factory=list)
    """Ends of the run that nobody asked for; it was started again."""
    check: Check = field(default_factory=Check)
    changed: list[str] = field(default_factory=list)
    """Logs of which something that was written is gone or changed."""
    left_behind: list[str] = field(default_factory=list)
    games: int = 0
    """N of the exact end."""
    starts: int = 0

    @property
    def unrecovered(self) -> list[Injected]:
        """Faults from which the run has not recovered."""
        return [one for one in self.injected if one.recovered_s is None]

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, doubled, wrong or left behind and the run has recovered from everything."""
        return self.check.sound and not (self.changed or self.left_behind or self.unrecovered or self.ended_early)


def plan_phases(seconds: float) -> list[tuple[str, float]]:
    """Return kind and seconds of each phase: cycles of about three minutes, and a rest at the end."""
    cycles, last = max(1, round(seconds / _CYCLE_S)), min(_LAST_S, seconds / 10)
    part = (seconds - last) / (cycles * sum(share for _, share in _SHARES))
    return [*((kind, share * part) for _ in range(cycles) for kind, share in _SHARES), (REST, last)]


def run_soak(asked: SoakAsked, say: Callable[[str], None]) -> Soaked:
    """Run the soak; `say` is told what happens. Raises PoolError when the run cannot even begin or end."""
    with TemporaryDirectory(prefix="grove-soak-") as scratch:
        soak = _Soak(asked, Path(scratch), say)
        try:
            return soak.run()
        finally:
            soak.trial.run.kill_all()


class _Soak:
    def __init__(self, asked: SoakAsked, scratch: Path, say: Callable[[str], None]) -> None:
        self._asked, self._say = asked, say
        port, folder = _free_port(), asked.out / "run"
        command = ["selfplay", "--config", str(asked.load), "--out", str(folder), "--metrics-port", str(port)]
        self.trial = FaultTrial(
            RunUnderTest(command, folder, port, scratch),
            Watch(port),
            random.Random(asked.seed),
            asked.models,
            [Served(asked.models.first, time.monotonic())],
        )
        self._written = Written(folder / "games")
        self._lives: dict[tuple[str, int], list[Sample]] = {}
        self._games_read = self._memory_read = 0.0
        self._found = Soaked()
        self._others: Iterator[str] = self._deck([name for name in asked.faults if name not in KILLS], shuffled=False)
        self._kills: Iterator[str] = self._deck([name for name in asked.faults if name in KILLS], shuffled=True)

    def run(self) -> Soaked:
        found, run = self._found, self.trial.run
        run.start(_MANY)
        self._began = time.monotonic()
        self._await_start()
        for kind, seconds in plan_phases(self._asked.seconds):
            self._phase(kind, seconds)
        self._end()
        found.starts = run.starts
        found.memory = {}
        for (role, _), life in self._lives.items():
            found.memory.setdefault(role, []).append(life)
        return found

    # -- phases --------------------------------------------------------------------------------------------------

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._written.seen:
            self._tick(_SLOW_S)
            if self._found.ended_early or time.monotonic() > deadline:
                raise PoolError(f"the run has not begun: {self.trial.run.last_words()}")

    def _phase(self, kind: str, seconds: float) -> None:
        self._say(f"{kind}: {seconds:.0f} s")
        began, games, evaluations = time.monotonic(), len(self._written.seen), self.trial.watch.evaluations
        ends = began + seconds
        if kind == KILL:
            self._kill_until(ends)
        elif kind == OTHER:
            self._harm_until(ends)
        self._rest_until(ends)
        self._written.read()
        self._found.phases.append(
            Phase(
                kind,
                time.monotonic() - began,
                len(self._written.seen) - games,
                self.trial.watch.evaluations - evaluations,
            )
        )

    def _kill_until(self, ends: float) -> None:
        """Kill a process at every beat; one that is not there is passed over."""
        beat = time.monotonic() + self._asked.every_s / 2
        while beat < ends:
            self._rest_until(beat)
            self._inject_any(self._kills)
            beat = max(beat + self._asked.every_s, time.monotonic())

    def _harm_until(self, ends: float) -> None:
        while time.monotonic() < ends and self._inject_any(self._others):
            self._rest_until(time.monotonic() + _PAUSE_S)

    def _rest_until(self, when: float) -> None:
        while time.monotonic() < when:
            self._tick(min(_SLOW_S, max(0.0, when - time.monotonic())))

    # -- faults --------------------------------------------------------------------------------------------------

    def _deck(self, names: Sequence[str], shuffled: bool) -> Iterator[str]:
        """Yield `names` for ever, `worker` once for each that lives; shuffled anew in every turn where asked for."""
        possible = []
        for name in names:
            reason = FAULTS[name].impossible()
            if reason:
                self._found.skipped[name] = reason
            else:
                possible.append(name)
        while possible:
            workers = len(self.trial.run.roles()["worker"])
            turn = [name for name in possible for _ in range(max(1, workers) if name == "worker" else 1)]
            if shuffled:
                self.trial.draw.shuffle(turn)
            yield from turn

    def _inject_any(self, names: Iterator[str]) -> bool:
        """Inject the first fault that is possible, of the next few; return whether there was one."""
        return any(self._inject_soon(name) for _, name in zip(range(len(FAULTS)), names, strict=False))

    def _inject_soon(self, name: str) -> bool:
        """Inject a fault once it is possible; return False when it has not become so."""
        deadline = time.monotonic() + FAULTS[name].waits_s
        while True:
            try:
                self._inject(name, FAULTS[name])
                return True
            except NotNow:
                if time.monotonic() >= deadline:
                    return False
                self._tick(_SLOW_S)

    def _inject(self, name: str, fault: Fault) -> None:
        self._tick(0.0)
        at = time.monotonic()
        try:
            sign = fault.inject(self.trial)
            why = self._await_sign(sign, at + fault.limit_s)
        except Unrecovered as error:
            why = str(error)
        seconds = time.monotonic() - at
        self._found.injected.append(Injected(name, at - self._began, None if why else seconds, why))
        self._say(f"  {fault.does}: {why or f'{fault.recovered_at} after {seconds:.2f} s'}")

    def _await_sign(self, sign: Recovery, deadline: float) -> str:
        """Look until the run has recovered; return why it has not, or nothing."""
        while time.monotonic() < deadline:
            early = len(self._found.ended_early)
            look = self._tick(_FAST_S)
            if len(self._found.ended_early) > early:
                return self._found.ended_early[-1]
            if sign(look):
                return ""
        return "not within its time"

    # -- looking -------------------------------------------------------------------------------------------------

    def _tick(self, seconds: float) -> Observation | None:
        """Wait, look, and start the run again when it has ended by itself."""
        time.sleep(seconds)
        now, run = time.monotonic(), self.trial.run
        if now - self._games_read >= _GAMES_S:
            self._written.read()
            self._games_read = now
        if now - self._memory_read >= _MEMORY_S:
            self._read_memory(now)
        if run.ended is not None:
            self._found.ended_early.append(f"it ended with {run.ended}: {run.last_words()}")
            self._say(f"  {self._found.ended_early[-1]}")
            run.start()
        return self.trial.watch.look()

    def _read_memory(self, now: float) -> None:
        self._memory_read = now
        for role, processes in self.trial.run.roles().items():
            for process in processes:
                try:
                    mb = process.memory_info().rss / 2**20
                except psutil.Error:
                    continue
                self._lives.setdefault((role, process.pid), []).append((now, mb))

    # -- the end -------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Stop the run, let the same command finish all games up to the highest index, and check what is on disk."""
        found, run = self._found, self.trial.run
        release(self.trial)
        run.stop()
        if run.wait(_END_S) != 0:
            raise PoolError(f"the run did not end after SIGTERM: {run.last_words()}")
        self._written.read()
        found.games = max(self._written.seen) + 1
        self._say(f"finishing {found.games} games")
        run.start(found.games)
        status = run.wait(_END_S)
        if status != 0:
            raise PoolError(f"the run did not finish its games, status {status}: {run.last_words()}")
        self._written.read()
        found.changed = self._written.changed()
        found.left_behind = run.left_behind(_GONE_S)
        asked, game = self._asked, load_game(self._asked.game_spec)
        games = run.folder / "games"
        found.check = check_games(games, game, found.games, asked.seed, self.trial.served, self._written.seen)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
