"""HTML for reports: a few elements whose text is always escaped, and the page around them. No script, no network."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

GENERATOR = "grove report"
_STYLE = """
:root { color-scheme: light; --ink: #1d2430; --faint: #5b6473; --line: #e3e6eb; --blue: #0072b2; --warn: #b3470a; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.5rem 5rem; max-width: 78rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.75rem; margin: 0 0 .2rem; }
h2 { font-size: 1.35rem; margin: 3.2rem 0 .2rem; padding-top: 1.2rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.02rem; margin: 1.7rem 0 .5rem; }
h2 small { font-weight: 400; color: var(--faint); font-size: .95rem; margin-left: .5rem; }
p { margin: .35rem 0; }
a { color: var(--blue); }
.faint { color: var(--faint); font-size: .9rem; overflow-wrap: anywhere; }
.finding { font-size: 1.12rem; font-weight: 600; margin: .5rem 0 .8rem; }
.advice, .problems { border-left: 4px solid var(--blue); background: #f2f7fb; padding: .55rem .9rem; margin: .8rem 0; }
.problems { border-color: var(--warn); background: #fdf4ee; }
.advice ul, .problems ul { margin: .2rem 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; }
th { text-align: right; color: var(--faint); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
th, td { padding: .3rem .55rem .3rem 0; border-bottom: 1px solid var(--line); }
td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th.text, td.text, .words td, .words th { text-align: left; }
th.text:not(:first-child), td.text:not(:first-child) { padding-left: .8rem; }
.words td { white-space: normal; overflow-wrap: break-word; max-width: 58rem; }
.words td:nth-child(2) { min-width: 6rem; }
.words td:first-child { color: var(--faint); white-space: nowrap; padding-right: 1.6rem; }
tr.best td { background: #eef6fb; font-weight: 600; }
tbody tr:last-child td { border-bottom: 0; }
figure { margin: .8rem 0 1.2rem; }
img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; }
figcaption { color: var(--faint); font-size: .88rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--blue); }
pre { overflow-x: auto; background: #f6f7f9; padding: .7rem .9rem; font-size: .82rem; line-height: 1.4; }
@media print { details { display: block; } h2 { break-before: page; } }
"""


class Html(str):
    """Text that is markup already; any other string is escaped."""

    __slots__ = ()


Part = str | Html


def escape(text: object) -> Html:
    """Return `text` for the page: escaped, unless it is markup. Control characters become visible."""
    if isinstance(text, Html):
        return text
    clean = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(text))
    return Html(html.escape(clean, quote=True))


def join(parts: Iterable[Part]) -> Html:
    """Return the parts, each on its line."""
    return Html("\n".join(escape(part) for part in parts if part))


def tag(name: str, *parts: Part, **attributes: str) -> Html:
    """Return an element; a trailing underscore of an attribute's name is left out (`class_`)."""
    given = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{''.join(escape(part) for part in parts)}</{name}>")


def listed(kind: str, title: str, lines: Sequence[Part]) -> Html:
    """Return a box of class `kind` with a bulleted list; nothing without lines."""
    if not lines:
        return Html("")
    items = join(tag("li", line) for line in lines)
    return tag("div", tag("strong", title), tag("ul", items), class_=kind)


def table(heads: Sequence[str], rows: Sequence[Sequence[Part]], best: int = -1, kind: str = "") -> Html:
    """Return a table; row number `best` stands out. `kind` is a class, e.g. `words` for texts instead of numbers."""
    width = max(len(heads), *map(len, rows)) if rows else len(heads)
    look = [{} for _ in range(width)] if kind or not rows else [_look(column) for column in zip(*rows, strict=True)]
    head = tag("tr", *(tag("th", text, **how) for text, how in zip(heads, look, strict=True))) if any(heads) else ""
    body = []
    for number, row in enumerate(rows):
        cells = join(tag("td", cell, **how) for cell, how in zip(row, look, strict=True))
        body.append(tag("tr", cells, class_="best") if number == best else tag("tr", cells))
    whole = tag(
        "table", tag("thead", head) if head else "", tag("tbody", join(body)), **({"class_": kind} if kind else {})
    )
    return tag("div", whole, class_="wide")


def _look(column: Sequence[Part]) -> dict[str, str]:
    """Return the attributes of a column's cells: texts stand left, numbers right."""
    return {} if any(cell[:1] in "0123456789+-" for cell in column) else {"class_": "text"}


def pairs(content: Mapping[str, Any]) -> Html:
    """Return a table of names and values, nested tables flattened."""
    rows = [(key, shown(value, key)) for key, value in flat(content)]
    return table((), rows, kind="words") if rows else Html("")


def details(title: str, *parts: Part) -> Html:
    """Return what is folded until it is asked for; nothing without content."""
    inside = join(parts)
    return tag("details", tag("summary", title), inside) if inside else inside


def picture(name: str, text: str, caption: str = "") -> Html:
    """Return a picture beside the page; `text` says what it shows to those who cannot see it."""
    image = Html(f'<img src="{quote(name)}" alt="{escape(text)}">')
    return tag("figure", tag("a", image, href=quote(name)), tag("figcaption", caption) if caption else "")


def page(title: str, body: Html) -> str:
    """Return the whole page."""
    head = join(
        (
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html(f'<meta name="generator" content="{GENERATOR}">'),
            tag("title", title),
            Html(f"<style>{_STYLE}</style>"),
        )
    )
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


# -- values ------------------------------------------------------------------------------------------------------------


def flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return (dotted key, value) of all values, tables within tables included."""
    out: list[tuple[str, Any]] = []
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            out += flat(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", value))
    return out


def shown(value: Any, key: str = "") -> str:
    """Return any value of a JSON file as text: numbers in about four digits, short lists in full."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return str(value) if "seed" in key or abs(value) < 10_000 else f"{value:,}"
    if isinstance(value, list | tuple):
        text = ", ".join(shown(item) for item in value[:24])
        return f"{text}, ... ({len(value)} in all)" if len(value) > 24 else text or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(item)}" for name, item in value.items()) or "-"
    return str(value)


def number(value: float) -> str:
    """Return a number in about four digits."""
    if not math.isfinite(value):
        return "-"
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
