"""The faults of a soak: what each does to the run, and by what it is seen that the run has recovered from it.

To add one, write a function from a `FaultTrial` to a `Recovery` and name it in `FAULTS`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress

import psutil

from grove.bench.soak.disk import fill_disk, no_small_disk
from grove.bench.soak.swap import kill_in_swap, push_bad_model, roll_back, swap_model
from grove.bench.soak.trial import (
    Fault,
    FaultTrial,
    Recovery,
    Unrecovered,
    first_batch,
    full_batch,
    goes_on,
    in_background,
)
from grove.common.errors import SettingError

_CLEAN_S = 30.0
"""Longest time that a clean end may take."""


def kill_worker(trial: FaultTrial) -> Recovery:
    """`kill -9` of a worker."""
    worker, sign = trial.victim("worker"), full_batch(trial)
    worker.kill()
    return sign


def kill_server(trial: FaultTrial) -> Recovery:
    """`kill -9` of the server."""
    server, sign = trial.victim("server"), first_batch(trial)
    server.kill()
    return sign


def kill_fork_server(trial: FaultTrial) -> Recovery:
    """`kill -9` of the process that servers are forked from."""
    fork_server, sign = trial.victim("server-fork-server"), goes_on(trial)
    fork_server.kill()
    return sign


def kill_server_and_fork_server(trial: FaultTrial) -> Recovery:
    """`kill -9` of the server and of the process it was forked from: the next one must load everything."""
    fork_server, server, sign = trial.victim("server-fork-server"), trial.victim("server"), first_batch(trial)
    fork_server.kill()
    server.kill()
    return sign


def kill_supervisor(trial: FaultTrial) -> Recovery:
    """`kill -9` of the supervisor, and the same command again at once."""
    supervisor, sign = trial.victim("supervisor"), first_batch(trial)
    supervisor.kill()
    trial.run.wait(_CLEAN_S)
    trial.run.start()
    return sign


def kill_worker_and_fork_server(trial: FaultTrial) -> Recovery:
    """`kill -9` of a worker and of the process it was forked from."""
    fork_server, worker, sign = trial.victim("worker-fork-server"), trial.victim("worker"), full_batch(trial)
    fork_server.kill()
    worker.kill()
    return sign


def kill_all(trial: FaultTrial) -> Recovery:
    """`kill -9` of all processes of the run, and the same command again at once."""
    sign = first_batch(trial)
    trial.run.kill_all()
    trial.run.start()
    return sign


def stop_and_continue(trial: FaultTrial) -> Recovery:
    """SIGTERM, an end with status 0, and the same command again."""
    sign = first_batch(trial)
    trial.run.stop()
    status = trial.run.wait(_CLEAN_S)
    if status != 0:
        raise Unrecovered(f"it ended with {status} after SIGTERM: {trial.run.last_words()}")
    trial.run.start()
    return sign


def hang(role: str, sign_of: Callable[[FaultTrial], Recovery]) -> Callable[[FaultTrial], Recovery]:
    """Return the fault SIGSTOP of a process of that role."""

    def inject(trial: FaultTrial) -> Recovery:
        victim, sign = trial.victim(role), sign_of(trial)
        victim.send_signal(signal.SIGSTOP)
        return sign

    return inject


def full_disk(trial: FaultTrial) -> Recovery:
    """Another run fills a small file system, ends, and goes on when there is room."""
    return in_background(lambda: fill_disk(trial.run.folder.with_name("disk"), trial.run.scratch))


def release(trial: FaultTrial) -> None:
    """Let stopped processes go on, so that the end of a soak need not wait for them."""
    for process in trial.run.members():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                process.send_signal(signal.SIGCONT)


KILLS = ("worker", "server", "server-fork-server", "supervisor")
"""Faults of the phases in which processes are killed: kill -9 of one process, every process as likely as any other."""
_BATCH, _FULL, _SERVES = "first new batch", "full batches again", "the model serves"
FAULTS: dict[str, Fault] = {
    "worker": Fault("kill -9 of a worker", kill_worker, _FULL),
    "server": Fault("kill -9 of the server", kill_server, _BATCH),
    "server-fork-server": Fault("kill -9 of the fork server for servers", kill_fork_server, "next batch"),
    "supervisor": Fault("kill -9 of the supervisor, the same command again", kill_supervisor, _BATCH),
    "swap": Fault("a model pushed", swap_model, _SERVES),
    "rollback": Fault("back to the model before", roll_back, _SERVES),
    "bad-model": Fault("a bad model pushed", push_bad_model, "refused, the former serves on"),
    "full-disk": Fault("a small disk full, then room", full_disk, "its exact end", 2 * 60, impossible=no_small_disk),
    "kill-in-swap": Fault("a model pushed, kill -9 of the server at once", kill_in_swap, "the new server serves it"),
    "hang-worker": Fault("SIGSTOP of a worker", hang("worker", full_batch), _FULL),
    "server-and-fork-server": Fault("kill -9 of the server and its fork server", kill_server_and_fork_server, _BATCH),
    "worker-and-fork-server": Fault("kill -9 of a worker and its fork server", kill_worker_and_fork_server, _FULL),
    "hang-server": Fault("SIGSTOP of the server", hang("server", first_batch), _BATCH),
    "all-at-once": Fault("kill -9 of everything, the same command again", kill_all, _BATCH),
    "stop": Fault("SIGTERM, the same command again", stop_and_continue, _BATCH),
}
"""All faults; those not in `KILLS` are injected one after the other in phases of their own, in this order:
first those that end no process of the run, so that there are long lives."""


def parse_faults(text: str) -> tuple[str, ...]:
    """Return the names of the faults in `text`. Raises SettingError for one that is not known."""
    names = tuple(FAULTS) if text == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in FAULTS:
            raise SettingError.of("faults", name, f"the faults are {', '.join(FAULTS)}", "choose some of them, or all")
    return names
