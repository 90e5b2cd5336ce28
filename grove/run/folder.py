"""The folder of one run: what was asked for, on which machine, what came out. The same command on it resumes.

runs/NAME/
  config.toml     the resolved settings
  run.json        version, commit, machine, seed, command line and choices of the first start and of every resume
  games/          one log of finished games per worker (records/record.py)
  models/         model files that take over while the run goes on, the newest one, and what became of each
  metrics.jsonl   one JSON line per interval (docs/reference/metrics.md names its keys)
  log.txt         what was said
  summary.json    the figures at the end
  lock            only while a process uses the folder
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import psutil
import tomli_w

from grove.common import machine
from grove.common.errors import RecordError, SettingError
from grove.records.log import LineLog, sync_folder
from grove.run.lock import FolderLock

MAY_DIFFER = (
    *("out", "games", "workers", "games_per_worker", "groups", "pool", "preset", "config", "device", "lanes"),
    *("fsync", "drain"),
)
"""Settings that may change at a resume, because they say how much and where, not which games."""

_OWN_NAMES = {"config.toml", "run.json", "games", "metrics.jsonl", "log.txt", "summary.json", "models", "lock"}


class RunFolder:
    """An open run folder; one process at a time. Use as a context manager, or call `close`."""

    path: Path
    """The folder."""
    games: Path
    """The folder of the game logs."""
    settings: dict[str, Any]
    """The resolved settings as recorded, the seed included."""
    seed: int
    """The run's seed: the given one, or the one drawn at the first start."""
    resumed: bool
    """Whether the folder held a run already."""

    def __init__(self, path: Path, lock: FolderLock) -> None:
        """Wrap a locked folder; use `open_or_create`."""
        self.path = path
        self.games = path / "games"
        self.settings = {}
        self.seed = 0
        self.resumed = False
        self._lock = lock
        self._metrics = LineLog(path / "metrics.jsonl")
        self._log = LineLog(path / "log.txt", None)

    @classmethod
    def open_or_create(
        cls,
        path: Path | str,
        settings: Mapping[str, Any],
        *,
        may_differ: Collection[str] = MAY_DIFFER,
        command: Sequence[str] | None = None,
    ) -> RunFolder:
        """Create the folder for `settings`, or reopen it when it was made by the same settings.

        `settings`: plain values, nested tables allowed; a `seed` that is absent or None is drawn at the first start
        and taken from the folder afterwards. `may_differ`: keys (or tables, dotted when nested) that may change.
        `command`: recorded command line, by default this process's.
        Raises SettingError when the folder is in use, holds other things, or was made by other settings (each
        difference is listed), RecordError when it cannot be read or written.
        """
        folder = Path(path)
        with _clear_errors(folder):
            _refuse_foreign(folder)
            _make_folder(folder / "games")
            run = cls(folder, FolderLock(folder / "lock"))
            try:
                run._start(settings, may_differ, list(sys.argv if command is None else command))
            except BaseException:
                run.close()
                raise
            return run

    @property
    def lock(self) -> int:
        """Descriptor of the folder's lock; children that write games hold it open, too."""
        return self._lock.fd

    def write_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl: `values` after `time` (seconds since 1970)."""
        line = json.dumps({"time": round(time.time(), 3), **values}, separators=(",", ":"))
        self._metrics.write(line.encode() + b"\n")

    def describe(self, chosen: Mapping[str, Any]) -> None:
        """Note in run.json, with this start, what it chose: device, dtype, network, pool, each with its reason."""
        path = self.path / "run.json"
        with _clear_errors(self.path):
            content = _read_json(path)
            start = (content.get("resumes") or [content])[-1]
            start["chosen"] = dict(chosen)
            write_whole(path, json.dumps(content, indent=2) + "\n")

    def log(self, text: str) -> None:
        """Append `text` to log.txt, each of its lines with the local time."""
        now = _now()
        self._log.write("".join(f"{now} {line}\n" for line in text.splitlines() or [""]).encode(errors="replace"))

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Replace summary.json at once and return its path; a reader sees the old or the new, never a part."""
        path = self.path / "summary.json"
        with _clear_errors(self.path):
            write_whole(path, json.dumps(summary, indent=2) + "\n")
        return path

    def close(self) -> None:
        """Sync what was written and let the folder go; closing twice is harmless."""
        with ExitStack() as stack:  # all three, whatever the disk says
            stack.callback(self._lock.release)
            stack.callback(self._log.close)
            stack.callback(self._metrics.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            with suppress(RecordError):  # the error is what counts
                self.log(f"ended by: {str(error) or type(error).__name__}")
            with suppress(RecordError):
                self.close()
        self.close()

    def _start(self, settings: Mapping[str, Any], may_differ: Collection[str], command: list[str]) -> None:
        config = self.path / "config.toml"
        wanted = tomllib.loads(_toml_text(settings))
        self.resumed = config.exists()
        if self.resumed:
            recorded = _read_toml(config)
            wanted = {key: recorded[key] for key in ("seed",) if key in recorded} | wanted
            _refuse_differences(self.path, recorded, wanted, may_differ)
        # 63 bits, because TOML readers need not take more.
        self.seed = wanted.setdefault("seed", secrets.randbits(63))
        self.settings = wanted
        _remove_leftovers(self.path)
        self._write_run_json(command)
        # Last, because it is what makes the folder a run.
        write_whole(config, _toml_text(wanted))
        self.log(f"{'resumed' if self.resumed else 'started'} by: {' '.join(command)}")

    def _write_run_json(self, command: list[str]) -> None:
        path = self.path / "run.json"
        start = {"time": _now(), "pid": os.getpid(), "command": command, **machine.provenance()}
        if self.resumed and path.exists():
            content = _read_json(path)
            content.setdefault("resumes", []).append(start)
        else:
            content = {"seed": self.seed, **start}
        write_whole(path, json.dumps(content, indent=2) + "\n")


def new_path(name: str) -> Path:
    """Return the folder of something new, such as a run of game `name`: runs/NAME-TIME; it is not made."""
    plain = "".join(c if c.isalnum() else "-" for c in name)
    return Path("runs") / f"{plain}-{datetime.now():%Y%m%d-%H%M%S}"


def differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (recorded, wanted) of all settings that differ; None stands for an absent one."""
    old, new = dict(_flatten(recorded)), dict(_flatten(wanted))
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def write_whole(path: Path, text: str) -> None:
    """Write `text` to a temporary file and rename it to `path`, so that no reader ever sees a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _refuse_differences(
    folder: Path, recorded: Mapping[str, Any], wanted: Mapping[str, Any], may_differ: Collection[str]
) -> None:
    def allowed(key: str) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in may_differ)

    found = {key: pair for key, pair in differences(recorded, wanted).items() if not allowed(key)}
    if found:
        listed = ", ".join(f"{key}: {_shown(old)} -> {_shown(new)}" for key, (old, new) in found.items())
        raise SettingError(
            f"{folder} was made by other settings ({listed}); repeat the command with the old values, "
            "or give another --out"
        )


def _shown(value: object) -> str:
    return "(not set)" if value is None else repr(value)


def _make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it; the names of all of them survive a power cut."""
    missing = [folder] if not folder.is_dir() else []
    while missing and not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds things but no run: it is somebody else's, or a typing error."""
    if not folder.is_dir() or (folder / "config.toml").exists():
        return
    foreign = sorted(item.name for item in folder.iterdir() if item.name not in _OWN_NAMES and item.suffix != ".tmp")
    if foreign:
        raise SettingError(f"{folder} holds {foreign[0]!r} but no run; give a new or empty folder as --out")


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left: logs without a first game, files that were not yet renamed.

    Models come from processes that take no lock; what they still copy is left alone.
    """
    for path in folder.glob("games/*.jsonl"):
        if path.stat().st_size == 0:
            path.unlink()
    for path in (*folder.glob(".*.tmp"), *folder.glob("games/.*.tmp")):
        path.unlink()
    for path in (*folder.glob("models/.*.part"), *folder.glob("models/*/.*.part")):
        writer = path.name.split(".")[-2]
        if not writer.isdigit() or not psutil.pid_exists(int(writer)):
            path.unlink(missing_ok=True)


def _toml_text(settings: Mapping[str, Any]) -> str:
    """Return plain settings as TOML, None left out."""
    try:
        text = tomli_w.dumps({key: value for key, value in settings.items() if value is not None})
        text.encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise SettingError(f"the settings cannot be written to config.toml ({error}); use plain values") from None
    return text


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path} cannot be read ({error}); restore it or give another --out") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path} cannot be read ({error}); restore or remove it") from error
    if not isinstance(content, dict):
        raise RecordError(f"{path} holds no table; restore or remove it")
    return content


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot use {folder} as a run folder ({error}); free some space or give a writable folder as --out"
        ) from error


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
