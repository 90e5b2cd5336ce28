"""Tables of figures that are not known by name: whatever a folder holds is shown as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grove.report.html import Html, details, join, pairs, shown, table, tag

Figures = Mapping[str, Any]
_MOST_ROWS = 400
"""Rows of a table that are shown."""
STARTS = ("version", "commit", "dirty", "machine", "command", "time", "seed", "settings", "resumes")
"""Keys that a section shows under machine and settings."""
POINT = {
    "mode": "mode",
    "workers": "workers",
    "games_per_worker": "games a worker",
    "batch_size": "max batch",
    "max_batch": "max batch",
    "window_us": "max delay us",
    "max_delay_us": "max delay us",
    "lanes": "lanes",
    "simulations_per_search": "simulations",
}
"""The axes of a sweep and what they are called."""


def generic(content: Any, skip: Sequence[str] = ()) -> list[Html]:
    """Return tables for any content: single values together, each list of tables by itself under its name."""
    if isinstance(content, list):
        rows = [row for row in content if isinstance(row, dict)]
        return [rows_table(rows) if len(rows) == len(content) else tag("p", shown(content))]
    if not isinstance(content, Mapping):
        return [tag("p", shown(content))]
    flat: dict[str, Any] = {}
    out: list[Html] = []
    for key, value in content.items():
        if key in skip:
            continue
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            out += [tag("h3", str(key)), rows_table(value)]
        elif isinstance(value, Mapping) and any(isinstance(item, list | Mapping) for item in value.values()):
            out += [tag("h3", str(key)), *generic(value)]
        else:
            flat[key] = value
    return [pairs(flat), *out] if flat else out


def rows_table(rows: Sequence[Figures]) -> Html:
    if not rows:
        return Html("")
    heads = list(dict.fromkeys(str(key) for row in rows for key in row))
    made = table(heads, [[shown(row.get(key), key) for key in heads] for row in rows[:_MOST_ROWS]])
    left = len(rows) - _MOST_ROWS
    return join((made, tag("p", f"{left} more rows are in the file", class_="faint"))) if left > 0 else made


def varying(rows: Sequence[Figures], best: int) -> Html:
    """Return the columns in which rows differ as a table, and those in which they agree below it."""
    heads = list(dict.fromkeys(str(key) for row in rows for key in row))
    simple = [key for key in heads if not any(isinstance(row.get(key), list | Mapping) for row in rows)]
    vary = [key for key in simple if len({str(row.get(key)) for row in rows}) > 1] if len(rows) > 1 else simple
    first = [key for key in (*POINT, "evaluations_per_second") if key in vary]
    columns = first + [key for key in vary if key not in first]
    if not columns:
        return Html("")
    texts = [[shown(row.get(key), key) for key in columns] for row in rows[:_MOST_ROWS]]
    same = {key: rows[0].get(key) for key in simple if key not in vary}
    return join((table(columns, texts, best), details("The same in all rows", pairs(same)) if same else Html("")))


def transposed(rows: Sequence[Figures], name: str) -> Html:
    """Return one column per row, for rows of many keys."""
    if not rows:
        return Html("")
    keys = [key for key in dict.fromkeys(str(key) for row in rows for key in row) if key != name]
    heads = ("", *(shown(row.get(name)) for row in rows))
    return table(heads, [[key, *(shown(row.get(key), key) for row in rows)] for key in keys], kind="words")


def inner_rows(content: Any) -> list[dict[str, Any]]:
    """Return the list of tables that a file is, or the first one within it."""
    lists = [content, *(content.values() if isinstance(content, dict) else ())]
    for found in lists:
        if isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
            return list(found)
    return []


def rest(content: Any) -> Html:
    rows = inner_rows(content)
    if not isinstance(content, dict):
        return Html("")
    left = {key: value for key, value in content.items() if value is not rows and value != rows and key not in STARTS}
    return join(generic(left))
