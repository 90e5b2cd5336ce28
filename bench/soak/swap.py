"""The faults of a soak that concern models: pushed, refused, taken back, and a server that dies in the middle of it.

Files reach the run's folder of models as `grove model push` and `grove model rollback` bring them.
"""

from __future__ import annotations

from pathlib import Path

from grove.bench.soak.look import Observation
from grove.bench.soak.trial import FaultTrial, NotNow, Recovery, Unrecovered, first_batch, goes_on
from grove.inference_server.interface.client import DEFAULT
from grove.inference_server.models.model_folder import ModelFolder

REFUSED = "refused_model"
"""Counter of errors that a bad file raises."""


def swap_model(trial: FaultTrial) -> Recovery:
    """Push the next model; recovered when the server says that it serves it, and batches go on."""
    goes, serves = goes_on(trial), _push_next(trial)
    return lambda look: serves(look) and goes(look)


def kill_in_swap(trial: FaultTrial) -> Recovery:
    """Push the next model and `kill -9` the server at once; recovered when another life of it serves that model."""
    server, computes = trial.victim("server"), first_batch(trial)
    serves = _push_next(trial)
    server.kill()
    return lambda look: computes(look) and serves(look)


def push_bad_model(trial: FaultTrial) -> Recovery:
    """Push a file that must be refused; recovered when it was, the model is the same, and batches go on."""
    last, goes = trial.watch.last, goes_on(trial)
    if last is None:
        raise NotNow("no server has answered yet")
    refused, model = last.errors.get(REFUSED, 0), trial.served[-1].version
    path = _push(trial, trial.draw.choice(trial.models.bad))

    def refused_and_gone(look: Observation | None) -> bool:
        if look is None or look.errors.get(REFUSED, 0) <= refused:
            return False
        if look.model != model:
            raise Unrecovered(f"{path.name} is no good, and model {look.model} took over from {model}")
        path.unlink(missing_ok=True)
        return goes(look)

    return refused_and_gone


def roll_back(trial: FaultTrial) -> Recovery:
    """Make the file of the model before the newest one; recovered when the server says that it serves that model."""
    folder, goes = _folder(trial), goes_on(trial)
    served = folder.read_status().served.get(DEFAULT, [])
    if len(served) < 2 or not served[-2].file:
        raise NotNow("there is no model to go back to")
    serves = trial.serves(served[-2].version)
    folder.promote(served[-2].file, DEFAULT)
    return lambda look: serves(look) and goes(look)


def _push_next(trial: FaultTrial) -> Recovery:
    """Push the next good model; the sign is that the server says that it serves it."""
    version, path = trial.next_model()
    serves = trial.serves(version)
    _push(trial, path)
    return serves


def _push(trial: FaultTrial, path: Path) -> Path:
    return _folder(trial).place(path)


def _folder(trial: FaultTrial) -> ModelFolder:
    return ModelFolder(trial.run.folder / "models")
