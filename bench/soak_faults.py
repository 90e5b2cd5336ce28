"""The faults of a soak: what each does to the run, and by what it is seen that the run has recovered from it.

To add one, write a function from a `Trial` to a `Sign` and name it in `FAULTS`.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from bench.soak_look import Look, Watch
from bench.soak_run import RunUnderTest
from common.errors import GroveError, SettingError

Sign = Callable[[Look | None], bool]
"""Whether a look at the run (None: no server answers) shows that it has recovered; raises Unrecovered if it cannot."""

FULL = 0.9
"""Share of the rows of a batch before the fault from which batches count as full again."""
BEFORE_S = 5.0
_WINDOW_S = 0.3
_CLEAN_S = 30.0


class Unrecovered(GroveError):
    """The run has not recovered from a fault and will not."""


class NotNow(GroveError):
    """The fault cannot be injected at this moment; the text says why."""


@dataclass
class Trial:
    """What a fault may use."""

    run: RunUnderTest
    watch: Watch
    draw: random.Random

    def victim(self, role: str) -> psutil.Process:
        """Return a process of that role, drawn at random. Raises NotNow when there is none."""
        found = self.run.roles()[role]
        if not found:
            raise NotNow(f"there is no {role} now")
        return self.draw.choice(sorted(found, key=lambda process: process.pid))


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    does: str
    """In words, for the table."""
    inject: Callable[[Trial], Sign]
    """Do it, and say how the recovery is seen. Raises NotNow."""
    recovered_at: str
    """What the time to recover is measured to, in words."""
    limit_s: float = 60.0
    """Longest time to recover."""
    impossible: Callable[[], str] = lambda: ""
    """Why it cannot be injected on this machine at all, or nothing."""


# How recovery is seen


def full_batch(trial: Trial) -> Sign:
    """Call it before the fault; then: a new process, as many live clients and as full batches as before."""
    before, rows = trial.watch.last, trial.watch.batch_rows(BEFORE_S)
    if before is None or not rows:
        raise NotNow("the server has not computed yet")
    known = {process.pid for process in trial.run.members()}
    since = time.monotonic()

    def sign(look: Look | None) -> bool:
        if look is None or look.live_clients < before.live_clients or look.time - since < _WINDOW_S:
            return False
        replaced = any(process.pid not in known for process in trial.run.members())
        return replaced and trial.watch.batch_rows(_WINDOW_S) >= FULL * rows

    return sign


def first_batch(trial: Trial) -> Sign:
    """Call it before the fault; then: another life of the server has computed a batch."""
    since = time.monotonic()
    return lambda look: look is not None and look.uptime_s < look.time - since and look.batches > 0


def goes_on(trial: Trial) -> Sign:
    """Batches are computed by the same life of the server."""
    last = trial.watch.last
    batches = last.batches if last else 0
    return lambda look: look is not None and look.batches > batches


def in_background(work: Callable[[], object]) -> Sign:
    """Do what takes long beside the looks; recovered when it has ended. Its errors are failures to recover."""
    faults: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            faults.append(error)

    thread = threading.Thread(target=run, name="fault")
    thread.start()

    def sign(look: Look | None) -> bool:
        if faults:
            raise Unrecovered(str(faults[0]))
        return look is not None and not thread.is_alive()

    return sign


# The faults


def kill_worker(trial: Trial) -> Sign:
    """`kill -9` of a worker."""
    worker, sign = trial.victim("worker"), full_batch(trial)
    worker.kill()
    return sign


def kill_server(trial: Trial) -> Sign:
    """`kill -9` of the server."""
    server, sign = trial.victim("server"), first_batch(trial)
    server.kill()
    return sign


def kill_standby(trial: Trial) -> Sign:
    """`kill -9` of the process that waits to replace the server."""
    standby, sign = trial.victim("standby"), goes_on(trial)
    standby.kill()
    return sign


def kill_supervisor(trial: Trial) -> Sign:
    """`kill -9` of the supervisor, and the same command again at once."""
    supervisor, sign = trial.victim("supervisor"), first_batch(trial)
    supervisor.kill()
    trial.run.wait(_CLEAN_S)
    trial.run.start()
    return sign


def kill_forkserver(trial: Trial) -> Sign:
    """`kill -9` of the process that starts workers, and of a worker, so that another one must be started."""
    forkserver, worker, sign = trial.victim("forkserver"), trial.victim("worker"), full_batch(trial)
    forkserver.kill()
    worker.kill()
    return sign


def kill_all(trial: Trial) -> Sign:
    """`kill -9` of all processes of the run, and the same command again at once."""
    sign = first_batch(trial)
    trial.run.kill_all()
    trial.run.start()
    return sign


def stop_and_continue(trial: Trial) -> Sign:
    """SIGTERM, an end with status 0, and the same command again."""
    sign = first_batch(trial)
    trial.run.stop()
    status = trial.run.wait(_CLEAN_S)
    if status != 0:
        raise Unrecovered(f"it ended with {status} after SIGTERM: {trial.run.last_words()}")
    trial.run.start()
    return sign


def hang(role: str, sign_of: Callable[[Trial], Sign]) -> Callable[[Trial], Sign]:
    """Return the fault SIGSTOP of a process of that role."""

    def inject(trial: Trial) -> Sign:
        victim, sign = trial.victim(role), sign_of(trial)
        victim.send_signal(signal.SIGSTOP)
        return sign

    return inject


def release(trial: Trial) -> None:
    """Let stopped processes go on, so that the end of a soak need not wait for them."""
    for process in trial.run.members():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                process.send_signal(signal.SIGCONT)


KILLS = ("worker", "server", "standby", "supervisor")
"""Faults of the phases in which processes are killed: kill -9 of one process, every process as likely as any other."""
_BATCH, _FULL = "first new batch", "full batches again"
FAULTS: dict[str, Fault] = {
    "worker": Fault("kill -9 of a worker", kill_worker, _FULL),
    "server": Fault("kill -9 of the server", kill_server, _BATCH),
    "standby": Fault("kill -9 of the standby server", kill_standby, "next batch"),
    "supervisor": Fault("kill -9 of the supervisor, the same command again", kill_supervisor, _BATCH),
    "all-at-once": Fault("kill -9 of everything, the same command again", kill_all, _BATCH),
    "forkserver": Fault("kill -9 of forkserver and a worker", kill_forkserver, _FULL),
    "stop": Fault("SIGTERM, the same command again", stop_and_continue, _BATCH),
    "hang-worker": Fault("SIGSTOP of a worker", hang("worker", full_batch), _FULL),
    "hang-server": Fault("SIGSTOP of the server", hang("server", first_batch), _BATCH),
}
"""All faults; those not in `KILLS` are injected one after the other in phases of their own, in this order."""


def parse_faults(text: str) -> tuple[str, ...]:
    """Return the names of the faults in `text`. Raises SettingError for one that is not known."""
    names = tuple(FAULTS) if text == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in FAULTS:
            raise SettingError.of("faults", name, f"the faults are {', '.join(FAULTS)}", "choose some of them, or all")
    return names
