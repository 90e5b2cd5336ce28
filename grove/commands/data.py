"""`grove data`: every game under any folders, counted, checked, described, repaired and exported.

Exit status: 0 all that was found could be read, 1 something could not (or, for check, is to be repaired), 2 a wrong
setting, 3 nothing was found that is, or may be, a game.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from grove.commands.data_text import count_lines, finding_lines, readable, stats_lines
from grove.common.errors import GroveError, RecordError, SettingError
from grove.records.export import export
from grove.records.files import Problem, find_files
from grove.records.mark import new_games, write_mark
from grove.records.repair import REJECTED, RepairPlan, plan_repair, repair_log
from grove.records.scan import Survey, records, survey
from grove.run.lock import FolderLock, holder

READ, UNREAD, NO_GAMES = 0, 1, 3
"""Exit statuses."""


@dataclass(frozen=True, kw_only=True)
class Roots:
    """What all commands of `grove data` take."""

    roots: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders or logs; games are found in whatever lies below: run folders, loose and compressed logs."""
    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True, kw_only=True)
class Count(Roots):
    """Count the games of each kind, each once, every line's checksum verified."""

    since: str | None = None
    """Mark file: also say how many games are new since it was written. All are while there is no such file."""
    threshold: int = 0
    """New games of a kind that are waited for: shown as (+NEW/THRESHOLD); needs --since. 0 waits for none."""
    mark: str | None = None
    """File to remember the counted games in, for a later --since; replaced at once."""

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise SettingError.of("threshold", self.threshold, "it must be at least 0", "choose a number of games")
        if self.threshold and self.since is None:
            raise SettingError.of("threshold", self.threshold, "new games are counted from a mark", "give --since MARK")


@dataclass(frozen=True, kw_only=True)
class Check(Roots):
    """Check every line in full and say what is wrong with which file, and what repair would do."""


@dataclass(frozen=True, kw_only=True)
class Stats(Roots):
    """Describe the games: lengths, time-outs and their cap, seats, models, games a minute of each worker over time."""


@dataclass(frozen=True, kw_only=True)
class Repair(Roots):
    """Move lines that are no usable games, and games that lie there twice, to NAME.rejected beside each log."""

    dry_run: bool = False
    """Only say what would be done."""


@dataclass(frozen=True, kw_only=True)
class Export(Roots):
    """Write all games to one Parquet file, one row a game (docs/guide/data.md); needs pyarrow."""

    out: str = ""
    """New file to write."""

    def __post_init__(self) -> None:
        if not self.out:
            raise SettingError("out is not given; name the file to write, e.g. --out games.parquet")
        if os.path.lexists(self.out):
            raise SettingError.of("out", self.out, "it is there already", "give the name of a new file")


def count(settings: Count) -> int:
    """Print how many games there are of each kind; returns the exit status."""
    found = _survey(settings)
    marked = settings.since is not None and os.path.exists(settings.since)
    new = None if settings.since is None else new_games(Path(settings.since), found)
    if settings.mark is not None:
        write_mark(Path(settings.mark), found)
    content = _content(found) | {"mark_found": marked}
    for spec, table in content["games"].items():
        if new is not None:
            table["new"] = new[spec]
        if settings.threshold:
            table |= {"threshold": settings.threshold, "ready": table["new"] >= settings.threshold}
    return _end(settings, content, lambda: count_lines(content, settings.since))


def check(settings: Check) -> int:
    """Print what is wrong; returns the exit status."""
    found = _survey(settings, in_full=True)
    plans, _ = plan_repair(found)
    content = _content(found) | {"repairs": list(map(_plan_table, plans))}
    content["status"] = UNREAD if plans else content["status"]
    return _end(settings, content, lambda: count_lines(content, None))


def stats(settings: Stats) -> int:
    """Print statistics of the games; returns the exit status."""
    from grove.records.stats import Caps, SpecStats, read_rates  # brings the games, which count need not wait for

    found, caps = _survey_to_read(settings), Caps()
    faults: list[Problem] = []
    specs: dict[str, SpecStats] = {}
    for game in records(found, faults.append):
        cap = caps.cap(game.log.file.run, game.record.game)
        specs.setdefault(game.record.game, SpecStats()).add(game.record, cap)
    runs = sorted({log.file.run.folder for log in found.logs if log.file.run.folder is not None and log.count})
    content = _content(found, faults) | {
        "games": {spec: part.table() for spec, part in sorted(specs.items())},
        "runs": [{"folder": str(folder), **read_rates(folder)} for folder in runs],
        "caps_unknown": caps.problems,
    }
    content["status"] = UNREAD if caps.problems else content["status"]
    return _end(settings, content, lambda: stats_lines(content))


def repair(settings: Repair) -> int:
    """Repair the logs and print what was done; returns the exit status."""
    found = _survey(settings, in_full=True)
    plans, skipped = plan_repair(found)
    done: list[dict[str, Any]] = []
    left = [{"path": str(problem.path), "why": problem.text} for problem in [*skipped, *found.troubles]]
    for folder in dict.fromkeys(plan.log.file.run.folder for plan in plans):
        here = [plan for plan in plans if plan.log.file.run.folder == folder]
        try:
            with _locked(folder, settings.dry_run):
                _repair_all(here, settings.dry_run, done, left)
        except (GroveError, OSError) as error:
            left += [{"path": str(plan.log.file.path), "why": str(error)} for plan in here]
    content = {"dry_run": settings.dry_run, "repaired": done, "left": left, "status": UNREAD if left else READ}
    verb = "to move" if settings.dry_run else "moved"
    lines = [f"{item['path']}: {verb} {item['text']}" for item in done]
    lines += [f"{item['path']}: left alone: {item['why']}" for item in left]
    return _end(settings, content, lambda: lines or ["nothing is to be repaired"])


def export_games(settings: Export) -> int:
    """Write the Parquet file; returns the exit status."""
    found, faults = _survey_to_read(settings), list[Problem]()
    rows = export(found, Path(settings.out), faults.append) if found.total else 0
    content = _content(found, faults) | {"out": settings.out if rows else None, "rows": rows}
    said = f"{settings.out}: {rows:,} games" if rows else "no games, so nothing was written"
    return _end(settings, content, lambda: [said])


# -- parts -----------------------------------------------------------------------------------------------------------


def _survey(settings: Roots, in_full: bool = False) -> Survey:
    if not settings.roots:
        raise SettingError("no folder is given; name folders that hold games, e.g. runs")
    for root in settings.roots:
        if not os.path.lexists(root):
            raise SettingError.of("folder", root, "there is no such folder or file", "name one that holds games")
    found = find_files([Path(root) for root in settings.roots])
    held = {run for run in {file.run for file in found.files} if _holder(run.folder) is not None}
    return survey(found, held, in_full)


def _survey_to_read(settings: Roots) -> Survey:
    """Return a survey whose games will be read in full."""
    found = _survey(settings)
    return _survey(settings, in_full=True) if len(found.left_out) else found


def _holder(folder: Path | None) -> int | None:
    """Return the process that plays in the run folder, or None."""
    if folder is None or not os.path.isfile(folder / "lock"):
        return None
    try:
        process, living = holder(folder / "lock")
    except OSError:
        return 0  # who cannot be asked may be writing
    return process if living else None


@contextmanager
def _locked(folder: Path | None, dry_run: bool) -> Iterator[None]:
    """Hold the run folder, so that no pool starts in it. Raises GroveError or OSError when it cannot be held."""
    if (process := _holder(folder)) is not None:
        raise RecordError(f"process {process or 'unknown'} plays in {folder}; repair it when that has ended")
    lock = None if folder is None or dry_run else FolderLock(folder / "lock")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _repair_all(
    plans: Sequence[RepairPlan], dry_run: bool, done: list[dict[str, Any]], left: list[dict[str, str]]
) -> None:
    for plan in plans:
        try:
            if not dry_run:
                repair_log(plan)
            done.append(_plan_table(plan))
        except RecordError as error:
            left.append({"path": str(plan.log.file.path), "why": str(error)})


def _plan_table(plan: RepairPlan) -> dict[str, Any]:
    rejected, path = len(plan.rejected), plan.log.file.path
    text = f"{rejected:,} of {plan.log.lines:,} lines to {path.name}{REJECTED}"
    text += "; the log goes, because nothing is left in it" if plan.remove else ""
    kept = plan.log.lines - rejected
    return {"path": str(path), "rejected": rejected, "kept": kept, "removed": plan.remove, "text": text}


def _spec_table(found: Survey, spec: str) -> dict[str, Any]:
    doubled: Mapping[str, int] = found.doubled.get(spec, {})
    return {
        "games": found.count(spec),
        **{kind: doubled.get(kind, 0) for kind in ("duplicates", "copies")},
        "runs": len(found.games[spec]),
        "logs": sum(spec in log.games for log in found.logs),
    }


def _content(found: Survey, faults: Sequence[Problem] = ()) -> dict[str, Any]:
    """Return what every command tells of the files, and its exit status."""
    unknown = "it holds no line that is known as a game"
    bad = [Problem(log.file.path, 0, log.unreadable or unknown) for log in found.logs if log.kind == "unreadable"]
    damaged = [log for log in found.logs if log.kind != "other" and log.bad.total()]
    others = [log for log in found.logs if log.kind == "other"]
    written = [str(log.file.path) for log in found.logs if log.being_written]
    nothing = NO_GAMES if not found.total and not written else READ
    return {
        "games": {spec: _spec_table(found, spec) for spec in found.games},
        "total": found.total,
        "logs": len(found.logs),
        "empty": [str(log.file.path) for log in found.logs if log.kind == "empty"],
        "other": [{"path": str(o.file.path), "first": o.examples[0].text if o.examples else ""} for o in others],
        "being_written": written,
        "unreadable": [{"path": str(problem.path), "why": problem.text} for problem in [*found.troubles, *bad]],
        "damaged": [
            {
                "path": str(log.file.path),
                "lines": {kind: count for kind, count in log.bad.items() if count},
                "examples": [{"line": problem.line, "why": problem.text} for problem in log.examples],
            }
            for log in damaged
        ],
        "refused": [{"path": str(fault.path), "line": fault.line, "why": fault.text} for fault in faults],
        "status": UNREAD if found.unread or faults else nothing,
    }


def _end(settings: Roots, content: dict[str, Any], lines: Callable[[], Sequence[str]]) -> int:
    """Print and return the status."""
    if settings.json:
        print(json.dumps(content, allow_nan=False))
    else:
        for line in (*lines(), *finding_lines(content)):
            print(readable(line))
    status: int = content["status"]
    return status
