"""Repairing logs: what cannot be used goes to a file beside, what can stays, and the log is replaced at once.

Kept beside as NAME.rejected are torn, damaged and invalid lines, lines that are no games, and games that the folder
holds already. Lines of a later schema stay: the Grove that wrote them can read them. Logs that are no game logs, that
cannot be read to their end or hold a line too long to be read are left alone.
"""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from grove.common.errors import RecordError
from grove.records.files import GameFile, LineReader, Problem, compress, reason
from grove.records.log import sync_folder
from grove.records.scan import Scanned, Survey, scan_file

REJECTED = ".rejected"


@dataclass(frozen=True)
class RepairPlan:
    """What is to be done to one log."""

    log: Scanned
    rejected: frozenset[int]
    """Lines that go to the file beside."""
    remove: bool
    """Whether nothing is left of it."""


def plan_repair(survey: Survey) -> tuple[list[RepairPlan], list[Problem]]:
    """Return what is to be done to which logs of a survey made in full, and which logs with faults are left alone."""
    plans: list[RepairPlan] = []
    skipped: list[Problem] = []
    for number, log in enumerate(survey.logs):
        if why := _reason_to_skip(log):
            skipped.append(Problem(log.file.path, 0, why))
        elif log.kind in ("games", "empty") and not log.being_written:
            rejected = _rejected(survey, number)
            if rejected or log.kind == "empty":
                kept = log.lines - len(rejected)
                plans.append(RepairPlan(log, frozenset(rejected), remove=not kept))
    return plans, skipped


def _reason_to_skip(log: Scanned) -> str:
    if log.unreadable:
        return log.unreadable
    if log.bad["long"]:
        return "it holds a line that is too long to be read"
    return "it holds no line that is known as a game" if log.kind == "unreadable" else ""


def _rejected(survey: Survey, number: int) -> set[int]:
    """Return the lines of a log that are no usable games, and games that another line of its folder holds."""
    log, folder = survey.logs[number], survey.logs[number].file.path.parent
    used = np.zeros(log.lines + 1, np.bool_)
    used[0] = True
    for columns in log.games.values():
        used[np.array(columns.line, np.int64)] = True
    for line, kept in survey.left_out[survey.left_out[:, 0] == number][:, 1:3].tolist():
        used[line] = survey.logs[kept].file.path.parent != folder
    return set(np.flatnonzero(~used).tolist()) - set(log.later)


def repair_log(plan: RepairPlan) -> None:
    """Carry out `plan`. Raises RecordError, and leaves the log as it was, when that fails or the log has changed."""
    path = Path(os.path.realpath(plan.log.file.path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _refuse_changed(path, plan.log)
        if plan.rejected:
            _write_parts(plan, path, temporary)
            _refuse_changed(path, plan.log)
        if plan.remove:
            path.unlink()
        else:
            temporary.replace(path)
        with suppress(PermissionError):  # a folder may be open for writing only
            sync_folder(path.parent)
    except OSError as error:
        raise RecordError(f"{path} is left as it was: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_changed(path: Path, log: Scanned) -> None:
    if path.stat().st_size != log.size:
        raise RecordError(f"{path} is left as it was: it was written to meanwhile")


def _write_parts(plan: RepairPlan, path: Path, temporary: Path) -> None:
    """Write the kept lines to `temporary` and append the others to the file beside, both safe on the disk."""
    beside = path.with_name(path.name + REJECTED)
    with beside.open("ab") as rejected, temporary.open("xb") as raw:
        before = rejected.tell()
        try:
            with _opened(raw, plan.log.compression) as kept:
                for number, line in LineReader(plan.log.file.path, plan.log.size).lines():
                    (rejected if number in plan.rejected else kept).write(line.removesuffix(b"\n") + b"\n")
            for file in (rejected, raw):
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            rejected.truncate(before)
            raise
    shutil.copymode(path, temporary)
    _verify(plan, temporary)


def _opened(raw: IO[bytes], compression: str) -> AbstractContextManager[IO[bytes]]:
    return compress(raw, compression) if compression else nullcontext(raw)


def _verify(plan: RepairPlan, temporary: Path) -> None:
    """Raise RecordError unless the new log holds exactly what was to be kept."""
    new = scan_file(GameFile(temporary, plan.log.file.run))
    if new.lines != plan.log.lines - len(plan.rejected) or new.unreadable or new.bad.total() != len(new.later):
        raise RecordError(f"{plan.log.file.path} is left as it was: the copy of it does not hold what was to be kept")
