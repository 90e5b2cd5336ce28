"""What `grove COMMAND --help` prints: the flags that most people use, the advanced ones, examples; 80 columns."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

WIDTH = 79
_INDENT = " " * 6


class Flag(NamedTuple):
    """One setting of a command."""

    name: str
    hint: Any
    default: Any
    about: str
    group: str
    """Which settings it belongs to, such as `search`; empty for the command's own."""


def help_text(kind: type[Any], program: str, usual: Sequence[str], examples: Sequence[str]) -> str:
    """Return the help of a command of settings `kind`; `usual`: names shown first, all when there are none."""
    flags = {flag.name: flag for flag in _flags(kind)}
    places = [flag for flag in flags.values() if _is_positional(flag)]
    given = [flag for flag in flags.values() if flag not in places]
    first = [flags[name] for name in usual if name in flags] or given
    words = [program, *(flag.name.upper() for flag in places), *(["[flags]"] if given else [])]
    lines = [f"usage: {' '.join(words)}", "", *textwrap.wrap(inspect.cleandoc(kind.__doc__ or ""), WIDTH), ""]
    lines += [line for flag in (*places, *first) for line in _lines(flag)]
    for group, rest in itertools.groupby((flag for flag in given if flag not in first), lambda flag: flag.group):
        lines += ["", f"advanced: {group}" if group else "advanced", *(line for flag in rest for line in _lines(flag))]
    if examples:
        lines += ["", "examples", *(f"  {program} {example}" for example in examples)]
    return "\n".join(lines) + "\n"


def _flags(kind: type[Any], group: str = "") -> Iterator[Flag]:
    hints, abouts = get_type_hints(kind, include_extras=True), _abouts(kind)
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from _flags(hint, item.name)  # type: ignore[arg-type]
        else:
            yield Flag(item.name, hint, item.default, abouts.get(item.name, ""), group)


def _abouts(kind: type[Any]) -> dict[str, str]:
    """Return what the docstrings below the fields say, those of the base classes included."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(field.target, ast.Name):
                found[field.target.id] = " ".join(inspect.cleandoc(ast.literal_eval(text.value)).split())
    return found


def _is_positional(flag: Flag) -> bool:
    return get_origin(flag.hint) is Annotated and "Positional" in repr(get_args(flag.hint)[1:])


def _lines(flag: Flag) -> list[str]:
    name, default = flag.name.replace("_", "-"), flag.default
    head = f"--{name}" if isinstance(default, bool) else f"--{name} {_values(flag.hint)}"
    if _is_positional(flag):
        head = flag.name.upper()
    elif default is True:
        head = f"--no-{name}"
    says_nothing = default is dataclasses.MISSING or default is None or default is False or default in ("", ())
    about = flag.about if says_nothing else f"{flag.about} (default: {default})"
    return [f"  {head}", *textwrap.wrap(about, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)]


def _values(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if origin in (Annotated, Union, UnionType, tuple):
        return _values(inner[0])
    return {int: "N", float: "X"}.get(hint, "TEXT")
