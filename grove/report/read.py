"""What a report is made of: folders of runs and measurements, read with whatever of them is there.

A file that is missing or damaged becomes a problem of its folder, by name; the rest is reported all the same.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grove.common.errors import SettingError
from grove.records.record import Problem, log_paths, read_folder

_KINDS = {
    "sweep": ("sweep.json", "sweep.csv", "results.csv"),
    "limit": ("limit.json",),
    "profile": ("profile.json",),
    "tune": ("trials.csv",),
    "soak": ("soak.json",),
    "compare": ("results.json",),
    "selfplay": ("summary.json", "metrics.jsonl", "config.toml"),
}
"""Kind of folder -> files any of which makes it one; the first kind that fits is taken."""
_EXPECTED = {
    "sweep": ("results.json", "run.json"),
    "limit": ("limit.json",),
    "profile": ("profile.json", "stages.txt", "worker.pstats"),
    "tune": ("results.json", "run.json", "trials.csv", "chart.png"),
    "compare": ("results.json", "run.json", "chart.png"),
    "peers": ("results.json", "run.json", "chart.png"),
    "selfplay": ("config.toml", "run.json", "metrics.jsonl", "summary.json", "games"),
}
_WHY = {
    "summary.json": "the run goes on or was killed, so its figures are those of the last interval",
    "results.json": "the measurement was not finished",
    "games": "no game was saved",
}
_MOST_GAME_BYTES = 64 << 20
"""Larger game logs are not checked for damaged lines."""
_MOST_BYTES = 256 << 20
_PICTURES = (".png", ".svg")
OWN_PREFIX = "report-"
"""What the names of pictures begin with that a report drew itself."""


@dataclass
class Source:
    """One folder and what was read of it."""

    name: str
    """Unique among the folders of a report."""
    path: Path
    kind: str
    files: dict[str, Any] = field(default_factory=dict)
    """File name -> its content: a table, a list, or the list of a .jsonl file's lines."""
    pictures: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """One line for everything that is missing or damaged."""

    @property
    def file_name(self) -> str:
        """The name as a part of file names, without a dot; unique as well."""
        return "".join(c if c.isalnum() or c in "-_" else "-" for c in self.name)

    def table(self, name: str) -> dict[str, Any]:
        """Return the content of a file that holds a table; empty when it is not there or holds something else."""
        content = self.files.get(name)
        return content if isinstance(content, dict) else {}

    def others(self) -> dict[str, Any]:
        """Return the JSON files that no folder of the kind has: name -> content."""
        own = {"run.json", "columns.json", *_KINDS.get(self.kind, ()), *_EXPECTED.get(self.kind, ())}
        return {name: content for name, content in self.files.items() if name.endswith(".json") and name not in own}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the content of a file that holds a list of tables."""
        content = self.files.get(name)
        return [row for row in content if isinstance(row, dict)] if isinstance(content, list) else []


def read_sources(folders: list[str]) -> list[Source]:
    """Return one source per folder. Raises SettingError for one that is none, or holds nothing that can be reported."""
    if not folders:
        raise SettingError("no folder is given; name run folders or folders of `grove bench`, e.g. runs/first")
    sources: list[Source] = []
    for folder in folders:
        source = _read(Path(folder))
        taken, number = {other.file_name for other in sources}, 1
        while source.file_name in taken:
            number += 1
            source.name = f"{source.path.name}-{number}"
        sources.append(source)
    return sources


def _read(path: Path) -> Source:
    try:
        path = path.resolve(strict=True)
        names = sorted(item.name for item in path.iterdir())
    except OSError as error:
        why = error.strerror or str(error)
        raise SettingError.of("folder", str(path), f"it cannot be read ({why})", "give a folder of a run") from None
    kind = next((kind for kind, marks in _KINDS.items() if any(mark in names for mark in marks)), "")
    if not kind and not any(name.endswith(".json") for name in names):
        limit = "it holds no run and nothing that was measured"
        raise SettingError.of("folder", str(path), limit, "give what `grove selfplay` or `grove bench` wrote to")
    source = Source(path.name, path, kind or "other")
    _look_for_expected(source, names)
    for name in names:
        _read_file(source, name)
    if kind == "compare" and any(row.get("kind") in ("player", "batcher") for row in source.rows("results.json")):
        source.kind = "peers"  # its files have the names of a comparison's
    source.pictures = [path / name for name in names if name.endswith(_PICTURES) and not name.startswith(OWN_PREFIX)]
    _check_pictures(source)
    if kind == "selfplay":
        _check_games(source)
    return source


def _look_for_expected(source: Source, names: list[str]) -> None:
    for name in _EXPECTED.get(source.kind, ()):
        if name not in names:
            why = _WHY.get(name)
            source.problems.append(f"{name} is missing{f': {why}' if why else ''}")


def _read_file(source: Source, name: str) -> None:
    """Read one file by its suffix; what is no figures is left alone."""
    path = source.path / name
    reader = _READERS.get(path.suffix)
    if reader is None or not path.is_file():
        return
    try:
        if path.stat().st_size > _MOST_BYTES:
            source.problems.append(f"{name} is larger than {_MOST_BYTES >> 20} MiB and was not read")
            return
        source.files[name] = reader(source, path)
    except (OSError, ValueError, RecursionError) as error:
        source.problems.append(f"{name} is damaged: {' '.join(str(error).split()) or type(error).__name__}")


def _json(source: Source, path: Path) -> Any:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict | list):
        raise ValueError(f"it holds {type(content).__name__}, not a table or a list")
    return content


def _toml(source: Source, path: Path) -> Any:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _lines(source: Source, path: Path) -> list[Any]:
    """Return the lines that can be read and count the others."""
    rows, bad = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a table")
            rows.append(row)
        except (ValueError, RecursionError):
            bad.append(number)
    if bad:
        where = f"line {bad[0]}" if len(bad) == 1 else f"{len(bad)} lines, the first is {bad[0]}"
        source.problems.append(f"{path.name} is damaged: {where}; the others were read")
    return rows


def _csv(source: Source, path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{str(key): _cell(str(value)) for key, value in row.items()} for row in csv.DictReader(file)]


def _cell(text: str) -> Any:
    """Return what a cell of `grove.bench.sweep.rows.to_csv` was made of."""
    if text in ("", "true", "false"):
        return {"": None, "true": True, "false": False}[text]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


_READERS: dict[str, Callable[[Source, Path], Any]] = {
    ".json": _json,
    ".toml": _toml,
    ".jsonl": _lines,
    ".csv": _csv,
}


def _check_pictures(source: Source) -> None:
    """Leave out pictures that no browser could show."""
    good = []
    for path in source.pictures:
        try:
            with path.open("rb") as file:
                begin = file.read(512)
        except OSError as error:
            source.problems.append(f"{path.name} cannot be read: {error.strerror or error}")
            continue
        png = begin.startswith(b"\x89PNG\r\n\x1a\n")
        if png if path.suffix == ".png" else b"<svg" in begin or b"<?xml" in begin:
            good.append(path)
        else:
            source.problems.append(f"{path.name} is damaged: it is no {path.suffix[1:].upper()} picture")
    source.pictures = good


def _check_games(source: Source) -> None:
    folder = source.path / "games"
    if not folder.is_dir():
        return
    size = sum(path.stat().st_size for path in log_paths(folder))
    if size > _MOST_GAME_BYTES:
        source.problems.append(f"games holds {size >> 20} MiB, which were not checked for damaged lines")
        return
    problems: list[Problem] = []
    for _ in read_folder(folder, problems):
        pass
    source.problems += [f"games/{found.path.name}:{found.line}: {found.text}" for found in problems[:20]]
    if len(problems) > 20:
        source.problems.append(f"games: {len(problems) - 20} more lines are damaged")
