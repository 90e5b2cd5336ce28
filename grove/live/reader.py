"""What a run folder tells another process of its run: how it stands, and the lines of its metrics as they come."""

from __future__ import annotations

import json
import math
import threading
import time
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from grove.common.errors import SettingError
from grove.common.numbers import duration
from grove.run.lock import holder

Kind = Literal["starting", "playing", "silent", "finished", "stopped", "failed", "killed"]
MOST_POINTS = 2000
"""Lines given at a time; of a longer run every n-th is given."""
SILENT_S = 60.0
"""Seconds without a line from which a run that lives is called silent: it writes one every five."""


@dataclass(frozen=True)
class Status:
    """How a run stands."""

    kind: Kind
    """`silent`: its process is there and writes nothing. `stopped`: ended cleanly with games left. `failed`: ended by
    an error. `killed`: its process is gone."""
    text: str
    """The same in words, with a remedy where there is one."""

    @property
    def ended(self) -> bool:
        """Whether nobody plays this run now."""
        return self.kind not in ("starting", "playing", "silent")


class RunReader:
    """Reads a run folder again and again, only what is new; may be used by several threads."""

    def __init__(self, path: Path | str) -> None:
        """Look at the folder. Raises SettingError when it holds no run."""
        self.path = Path(path)
        self.status = Status("starting", "starting")
        self.chosen: dict[str, Any] = {}
        """What the last start chose: game, device, dtype, network, pool and their reasons."""
        self.total = 0
        """Games the folder shall hold in the end."""
        self.last: dict[str, Any] = {}
        """The newest line of metrics of the last start; empty before its first."""
        self.summary: dict[str, Any] = {}
        """summary.json of the last start, once it has ended."""
        self.damaged = 0
        """Lines of metrics.jsonl that could not be read."""
        self._lines: list[tuple[float, str]] = []  # seconds of playing over all starts, line
        self._offset = 0
        self._before_s, self._reached_s = 0.0, 0.0  # seconds of playing of former starts, and of the present one
        self._lock = threading.Lock()
        self._look_at_start()

    def refresh(self) -> Status:
        """Read what is new and return how the run stands; never raises for a folder that is changing or removed."""
        with self._lock:
            try:
                number, held = holder(self.path / "lock")  # first: a run writes its last words before it lets it go
                self._look_at_start()
                self._read_lines()
                self.status = self._judge(number, held)
            except (OSError, SettingError):
                self.status = Status("failed", "the folder was removed or cannot be read any more")
            return self.status

    @property
    def count(self) -> int:
        """Lines read so far."""
        return len(self._lines)

    def points(self, after: int, most: int = MOST_POINTS) -> tuple[int, list[str]]:
        """Return the number of lines read, and those from number `after` on as JSON tables.

        Each has a key more, `t`: seconds of playing over all starts.
        """
        with self._lock:
            count, lines = len(self._lines), self._lines[after:]
        every = -(-len(lines) // most) or 1
        kept = lines[(len(lines) - 1) % every :: every]  # the newest is always among them
        return count, [f'{{"t":{t:.3f},{line.lstrip()[1:]}' for t, line in kept]

    # -- how it stands ------------------------------------------------------------------------------------------------

    def _look_at_start(self) -> None:
        config = self.path / "config.toml"
        try:
            settings = tomllib.loads(config.read_text(encoding="utf-8"))
            content = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            start = (content.get("resumes") or [content])[-1]
            self._started = datetime.fromisoformat(start["time"]).timestamp()
            self.chosen = {"game": settings["game"]} if "game" in settings else {}
            self.chosen |= {**start.get("chosen", {}), "folder": str(self.path)}
            self.total = int(self.last.get("games_wanted", _wanted(settings)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{Path(str(error.filename)).name} is not there" if isinstance(error, FileNotFoundError) else error
            limit = f"it holds no run that can be read ({' '.join(str(what).split())[:120]})"
            raise SettingError.of("run", str(self.path), limit, "give a run folder") from None

    def _judge(self, number: int | None, held: bool) -> Status:
        again = f"the same command with --out {self.path} plays what is left"
        self.summary = {}
        if held:
            return self._playing()
        if number is not None:
            return Status("killed", f"killed: process {number} is gone without a word; {again}")
        path = self.path / "summary.json"
        self.summary = _table(path.read_bytes() if path.exists() else b"", ("games", "games_left"))
        left = self.summary.get("games_left", self.total)
        if left == 0 and self.summary["games"] >= self.total:
            return Status("finished", "finished")
        if self.summary and path.stat().st_mtime >= self._started:
            return Status("stopped", f"stopped with {left:,} left; {again}")
        log = self.path / "log.txt"
        said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        word = said[-1].partition(" ")[2] if said else ""
        word = word if word.startswith("ended by: ") else "ended without a summary; see log.txt"
        return Status("failed", f"{word}; {again}")

    def _playing(self) -> Status:
        if not self.last:
            return Status("starting", "starting, no figures yet" if self.chosen.get("device") else "starting")
        quiet_s = time.time() - self.last["time"]
        if quiet_s < SILENT_S:
            return Status("playing", "playing")
        said = f"its process is there, but has written no figures for {duration(quiet_s)}"
        return Status("silent", f"{said}: it hangs, was stopped, or cannot write; see log.txt")

    # -- lines --------------------------------------------------------------------------------------------------------

    def _read_lines(self) -> None:
        """Take in the whole lines that were written since the last time; a line half written waits."""
        try:
            with (self.path / "metrics.jsonl").open("rb") as file:
                if file.seek(0, 2) < self._offset:  # another file than before
                    self._lines, self._offset, self._before_s, self._reached_s = [], 0, 0.0, 0.0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            data = b""
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(line)
        if self.last and self.last["time"] < self._started:  # the run was resumed and has no figures yet
            self.last = {}

    def _take(self, line: bytes) -> None:
        content = _table(line, ("seconds", "time"))
        try:
            wanted = int(content.get("games_wanted", self.total))
        except (TypeError, ValueError, OverflowError):
            content = {}
        if not content:
            self.damaged += bool(line.strip())  # a torn line is closed with an empty one
            return
        if content["seconds"] < self._reached_s:  # the clock of a new start
            self._before_s += self._reached_s
        self._reached_s = content["seconds"]
        self._lines.append((self._before_s + self._reached_s, line.decode()))
        self.last, self.total = content, wanted

    def played_text(self) -> str:
        """Return how long was played, over all starts."""
        return duration(self._lines[-1][0]) if self._lines else "no time at all"


def _wanted(settings: dict[str, Any]) -> int:
    """Return the games a run shall have; those of `grove work --indices A:B` are a part of a larger plan."""
    if "indices" in settings:
        first, _, last = str(settings["indices"]).partition(":")
        return int(last) - int(first)
    return int(settings["games"])


def _table(text: bytes, numbers: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON table in `text`; empty when it is none, or has not these numbers."""
    try:
        content = json.loads(text.decode(), parse_constant=_refuse)
        return dict(content) if all(math.isfinite(content[name]) for name in numbers) else {}
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return {}


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no figure")
