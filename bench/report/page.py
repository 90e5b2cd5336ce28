"""Runs and measurements as one HTML page. Whatever a folder holds is read; what is not known by name is shown as it is.

Nothing in a folder becomes markup: `page.html.jinja` escapes every text.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from grove.bench.core.report import busy_warning
from grove.bench.report.charts import draw_run
from grove.bench.report.read import Picture, Section, Table, read_section
from grove.common import machine
from grove.common.numbers import amount, percent

GENERATOR = "grove report"
"""What marks a page as one of ours."""
_OWN = "report-"
"""What the names of pictures begin with that a report put beside its page."""
_START = ("version", "commit", "dirty", "time", "command", "machine", "settings", "resumes", "seed", "others_cpu")
"""Keys that are shown under machine and settings."""
_COLUMNS = (
    *("mode", "workers", "games_per_worker", "batch_size", "window_us", "lanes", "simulations_per_search"),
    *("evaluations_per_second", "peak_share", "ratio_to_direct", "simulations_per_second", "games_per_minute"),
    *("rounds_per_minute", "matches_per_minute", "cpu_us_per_evaluation", "mean_batch_rows", "fill", "plan_days"),
)
"""What is shown first of rows of figures; all of them are there, folded."""
_SHARES = ("peak_share", "fill", "cache_hit_rate", "share")
_MOST_ROWS = 400


def make_page(folders: Sequence[Path], path: Path) -> int:
    """Write the page about `folders` to `path`, its pictures beside it; return how many problems it names.

    Raises SettingError for a folder that holds nothing to report, OSError when the page cannot be written.
    """
    sections: list[Section] = []
    for folder in folders:
        section = read_section(folder)
        taken, number = {other.file_name for other in sections}, 1
        while section.file_name in taken:
            number += 1
            section.name = f"{section.path.name}-{number}"
        sections.append(section)
    path.parent.mkdir(parents=True, exist_ok=True)
    for section in sections:
        _describe(section)
        _bring_pictures(section, path.parent)
    title = f"Grove: {sections[0].name}" if len(sections) == 1 else f"Grove: {len(sections)} runs and measurements"
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("page.html.jinja")
    stamp = datetime.now().astimezone().isoformat(timespec="minutes")
    about = {"title": title, "generator": GENERATOR, "stamp": stamp, "here": machine.provenance()}
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page.render(sections=sections, **about), encoding="utf-8", errors="replace")
    temporary.replace(path)
    return sum(len(section.problems) for section in sections)


def is_page(path: Path) -> bool:
    """Return whether the file at `path` is a page of ours, which may be replaced."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return f'content="{GENERATOR}"' in file.read(2048)
    except OSError:
        return False


# -- what is said ------------------------------------------------------------------------------------------------------


def _describe(section: Section) -> None:
    """Fill in finding, problems and tables; figures that are not what they should be never hide the rest."""
    try:
        section.finding = _finding(section)
        section.problems += _said_problems(section)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        section.problems.append(f"the figures are not what a {section.kind} folder holds ({error})")
    for name, content in section.files.items():
        if name in ("run.json", "config.toml", "columns.json") or name.endswith((".jsonl", ".csv")):
            continue
        section.tables += _tables(content, name)
    if section.kind == "sweep" and "results.json" not in section.files:
        section.tables += _tables(section.files.get("results.csv"), "results.csv")
    if section.kind == "selfplay" and not section.table("summary.json"):
        section.tables += _tables(_last_line(section), "the last interval")
    head = _head(section)
    section.tables.append(Table("Machine and versions", (), _pairs(_start(head))))
    settings = section.table("config.toml") or head.get("settings")
    section.tables.append(Table("Settings", (), _pairs(settings if isinstance(settings, dict) else {}), folded=True))
    section.tables = [table for table in section.tables if table.rows]


def _finding(section: Section) -> str:
    if section.kind == "selfplay":
        figures = section.table("summary.json") or _last_line(section)
        unit = figures.get("unit", "games")
        rates = amount(figures.get(f"{unit}_per_minute")), amount(figures.get("evaluations_per_second"))
        return f"{amount(figures.get('games'))} {unit}, {rates[0]} {unit}/min, {rates[1]} evaluations/s"
    contents = [content for content in section.files.values() if isinstance(content, dict)]
    said = [content.get("finding") or content.get("verdict") or "" for content in contents]
    said = [text.get("text") if isinstance(text, dict) else text for text in said]
    if text := next(filter(None, said), ""):
        return str(text)
    if section.kind == "soak":
        return _soak_finding(section.table("soak.json"))
    rows = _rows(section.files.get("results.json") or section.files.get("results.csv"))
    best = _best(rows)
    if best < 0:
        return ""
    names = [f"{name.replace('_', ' ')} {shown(rows[best][name])}" for name in _COLUMNS[:7] if rows[best].get(name)]
    share = rows[best].get("peak_share")
    of_peak = f", {percent(share)} of the network alone" if share else ""
    return f"{amount(rows[best]['evaluations_per_second'])} evaluations/s{of_peak} at best: {', '.join(names)}"


def _soak_finding(content: Mapping[str, Any]) -> str:
    check = content.get("check") or {}
    lost, twice = len(check.get("lost") or ()), len(check.get("duplicates") or ())
    said = "Sound" if content.get("sound") else "NOT SOUND"
    return f"{said}: {amount(check.get('games'))} games, {lost} lost, {twice} twice"


def _said_problems(section: Section) -> list[str]:
    """Return what was not measured, went wrong, or speaks against trust."""
    summary, head = section.table("summary.json"), _head(section)
    said = [f"during the run: {problem}" for problem in summary.get("problems") or []]
    for row in _rows(section.files.get("results.json")) or _rows(section.files.get("results.csv")):
        why = row.get("not_measured") or row.get("failure") or row.get("error")
        point = ", ".join(shown(row[name]) for name in _COLUMNS[:7] if row.get(name) is not None)
        said += [f"not measured: {point}: {why}"] if why else []
    soak = section.table("soak.json")
    said += [
        f"not tried: {fault['does']}: {fault['skipped']}" for fault in soak.get("faults") or [] if fault["skipped"]
    ]
    cores = (head.get("machine") or {}).get("cores")
    if head.get("others_cpu") is not None and (warning := busy_warning(head["others_cpu"], cores)):
        said.append(warning)
    return said


def _last_line(section: Section) -> dict[str, Any]:
    lines: list[dict[str, Any]] = section.files.get("metrics.jsonl") or [{}]
    return lines[-1]


def _head(section: Section) -> dict[str, Any]:
    """Return the first table that says on which machine it was measured."""
    tables = [section.table("run.json"), *(section.table(name) for name in section.files)]
    return next((content for content in tables if "machine" in content or "commit" in content), {})


def _start(head: Mapping[str, Any]) -> dict[str, Any]:
    command, dirty = head.get("command"), " with local changes" if head.get("dirty") else ""
    return {
        "grove": head.get("version"),
        "commit": f"{head['commit']}{dirty}" if head.get("commit") else None,
        "time": head.get("time"),
        "command": " ".join(map(str, command)) if isinstance(command, list) else command,
        **(head["machine"] if isinstance(head.get("machine"), dict) else {}),
    }


# -- tables ------------------------------------------------------------------------------------------------------------


def _tables(content: Any, title: str) -> list[Table]:
    """Return tables for any content: single values together, each list of tables by itself under its name."""
    if isinstance(content, list):
        return _rows_tables(_rows(content), title)
    if not isinstance(content, Mapping):
        return []
    plain, tables = {}, []
    for key, value in content.items():
        if key in _START:
            continue
        if rows := _rows(value):
            tables += _rows_tables(rows, f"{title}: {key}")
        else:
            plain[key] = value
    return [Table(title, (), _pairs(plain), folded=bool(tables)), *tables]


def _rows_tables(rows: Sequence[Mapping[str, Any]], title: str) -> list[Table]:
    heads = list(dict.fromkeys(str(key) for row in rows for key in row))
    first = [name for name in _COLUMNS if any(row.get(name) not in (None, "") for row in rows)]
    whole = Table(title, heads, _texts(rows, heads), folded=bool(first))
    if not first:
        return [whole]
    return [
        Table(title, [name.replace("_", " ") for name in first], _texts(rows, first), _best(rows)),
        whole._replace(title=f"All columns of {title}"),
    ]


def _texts(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    return [[shown(row.get(name), name) for name in names] for row in rows[:_MOST_ROWS]]


def _rows(content: Any) -> list[dict[str, Any]]:
    return [row for row in content if isinstance(row, dict)] if isinstance(content, list) else []


def _best(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of the row with the most evaluations a second, -1 when none has any."""
    found = [row.get("evaluations_per_second") for row in rows]
    rates = [rate if isinstance(rate, int | float) and math.isfinite(rate) else 0.0 for rate in found]
    return rates.index(max(rates)) if len(rates) > 1 and max(rates) > 0 else len(rates) - 1 if any(rates) else -1


def _pairs(content: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    out: list[list[str]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            out += _pairs(value, f"{prefix}{key}.")
        elif value not in (None, "", []):
            out.append([f"{prefix}{key}", shown(value, str(key))])
    return out


def shown(value: Any, name: str = "") -> str:
    """Return any value of a JSON file as text: numbers in about four digits, lists in full up to 24 items."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float() | int() if name.endswith(_SHARES):
            return percent(value)
        case float():
            return amount(value) if abs(value) >= 1000 or not math.isfinite(value) else f"{value:.4g}"
        case int():
            return str(value) if "seed" in name or abs(value) < 10_000 else f"{value:,}"
        case list() | tuple():
            return ", ".join(map(shown, value[:24])) + (f", ... ({len(value)} in all)" if len(value) > 24 else "")
        case dict():
            return ", ".join(f"{key} {shown(item, str(key))}" for key, item in value.items())
    return str(value)


# -- pictures ----------------------------------------------------------------------------------------------------------


def _bring_pictures(section: Section, folder: Path) -> None:
    """Draw a run over time, and copy the folder's own pictures unless they lie beside the page already."""
    if section.kind == "selfplay":
        name = f"{_OWN}{section.file_name}.png"
        with suppress(TypeError, ValueError, KeyError, AttributeError):
            if caption := draw_run(section.files.get("metrics.jsonl") or [], folder / name):
                section.pictures.append(Picture(name, caption))
    for path in sorted(section.path.glob("*.png")) + sorted(section.path.glob("*.svg")):
        if path.name.startswith(_OWN) or not _is_picture(section, path):
            continue
        name = path.name
        if section.path != folder.resolve():
            name = f"{_OWN}{section.file_name}.{path.name}"  # the dot: no picture of ours has one there
            shutil.copyfile(path, folder / name)
        section.pictures.append(Picture(name, path.name))


def _is_picture(section: Section, path: Path) -> bool:
    try:
        with path.open("rb") as file:
            begin = file.read(512)
    except OSError as error:
        section.problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return False
    good = begin.startswith(b"\x89PNG\r\n\x1a\n") if path.suffix == ".png" else b"<svg" in begin or b"<?xml" in begin
    if not good:
        section.problems.append(f"{path.name} is damaged: it is no {path.suffix[1:].upper()} picture")
    return good
