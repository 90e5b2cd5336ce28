"""What a report is made of: folders of runs and measurements, read with whatever of them is there.

A file that is missing or damaged becomes a problem of its folder, by name; the rest is reported all the same.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from grove.common.errors import SettingError
from grove.records.files import Problem
from grove.records.record import log_paths, read_folder

_KINDS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "sweep": ("sweep", ("results.csv",), ("results.json", "run.json")),
    "limit": ("limit", ("limit.json",), ("limit.json",)),
    "profile": ("profile", ("profile.json",), ("profile.json",)),
    "tune": ("tuning", ("trials.csv",), ("results.json", "run.json")),
    "soak": ("soak", ("soak.json",), ("soak.json",)),
    "compare": ("comparison", ("results.json",), ("results.json", "run.json")),
    "selfplay": ("self-play run", ("summary.json", "metrics.jsonl", "config.toml"),
                 ("config.toml", "run.json", "metrics.jsonl", "summary.json", "games")),
}  # fmt: skip
"""Kind of folder -> name, files any of which makes it one (the first kind that fits is taken), files it should have."""
_WHY = {"summary.json": ": the run goes on or was killed, so its figures are those of the last interval"}
_MOST_BYTES, _MOST_GAME_BYTES = 256 << 20, 64 << 20


class Table(NamedTuple):
    """A table of texts; row number `best` stands out, and `folded` ones are shown when asked for."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int = -1
    folded: bool = False


class Picture(NamedTuple):
    """A file beside the page."""

    name: str
    caption: str


@dataclass
class Section:
    """What the page says of one folder."""

    name: str
    """Unique among the folders of a page."""
    path: Path
    kind: str
    title: str
    files: dict[str, Any] = field(default_factory=dict)
    """File name -> its content: a table, or a list of tables."""
    finding: str = ""
    problems: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def file_name(self) -> str:
        """The name as a part of file names, without a dot; unique as well."""
        return "".join(c if c.isalnum() or c in "-_" else "-" for c in self.name)

    def table(self, name: str) -> dict[str, Any]:
        """Return the content of a file that holds a table; empty when it is not there or holds something else."""
        content = self.files.get(name)
        return content if isinstance(content, dict) else {}


def read_section(folder: Path) -> Section:
    """Return what a folder holds. Raises SettingError when it is no run and nothing was measured in it."""
    try:
        path = folder.resolve(strict=True)
        names = sorted(item.name for item in path.iterdir())
    except OSError as error:
        why = f"it cannot be read ({error.strerror or error})"
        raise SettingError.of("folder", str(folder), why, "give a folder of a run") from None
    kind = next((kind for kind, (_, marks, _) in _KINDS.items() if set(marks) & set(names)), "")
    if not kind and not any(name.endswith(".json") for name in names):
        limit = "it holds no run and nothing that was measured"
        raise SettingError.of("folder", str(path), limit, "give what `grove selfplay` or `grove bench` wrote to")
    title, _, expected = _KINDS.get(kind, ("figures", (), ()))
    section = Section(path.name, path, kind, title)
    section.problems += [f"{name} is missing{_WHY.get(name, '')}" for name in expected if name not in names]
    for name in names:
        _read(section, path / name)
    if kind == "selfplay" and "games" in names:
        _check_games(section)
    return section


def _read(section: Section, path: Path) -> None:
    """Read one file by its suffix; what is no figures is left alone."""
    reader = _READERS.get(path.suffix)
    if reader is None or not path.is_file():
        return
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
        section.files[path.name] = reader(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        section.problems.append(f"{path.name} is damaged: {' '.join(str(error).split()) or type(error).__name__}")
    if path.suffix == ".jsonl" and path.name in section.files:
        lines = section.files[path.name]
        section.files[path.name] = good = [line for line in lines if line is not None]
        if len(good) < len(lines):
            section.problems.append(f"{path.name} is damaged: {len(lines) - len(good)} lines; the others were read")


def _json(text: str) -> Any:
    content = json.loads(text)
    if not isinstance(content, dict | list):
        raise ValueError(f"it holds {type(content).__name__}, not a table or a list")
    return content


def _line(text: str) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        row = json.loads(text)
        return row if isinstance(row, dict) else None
    return None


def _cell(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"": None, "true": True, "false": False}.get(text, text)


_READERS: dict[str, Callable[[str], Any]] = {
    ".json": _json,
    ".toml": tomllib.loads,
    ".jsonl": lambda text: [_line(line) for line in text.splitlines()],
    ".csv": lambda text: [
        {str(key): _cell(str(value or "")) for key, value in row.items()} for row in csv.DictReader(text.splitlines())
    ],
}


def _check_games(section: Section) -> None:
    folder = section.path / "games"
    if sum(path.stat().st_size for path in log_paths(folder)) > _MOST_GAME_BYTES:
        return
    problems: list[Problem] = []
    for _ in read_folder(folder, problems):
        pass
    section.problems += [f"games/{found.path.name}:{found.line}: {found.text}" for found in problems[:20]]
