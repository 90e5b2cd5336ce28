"""Writing TOML (the standard library only reads it): plain values, lists and nested tables, as settings need them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePath

from grove.common.errors import SettingError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


def dumps(settings: Mapping[str, object]) -> str:
    """Return `settings` as TOML text; keys whose value is None are left out.

    Values are bool, int, float, str, paths (written as text), lists or tuples of these, and nested mappings.
    Raises SettingError for anything else.
    """
    return "\n".join(_table(settings, ())).lstrip("\n") + "\n"


def _table(settings: Mapping[str, object], path: tuple[str, ...]) -> list[str]:
    """Return the lines of one table: its plain values first, because a [header] ends the table above it."""
    present = {key: value for key, value in settings.items() if value is not None}
    tables = {key: value for key, value in present.items() if isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value, key)}" for key, value in present.items() if key not in tables]
    for key, table in tables.items():
        inner = (*path, key)
        lines += ["", f"[{'.'.join(map(_key, inner))}]", *_table(table, inner)]
    return lines


def _key(key: str) -> str:
    return key if _BARE_KEY.match(key) else _text(key)


def _value(value: object, key: str) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str() | PurePath():
            return _text(str(value))
        case list() | tuple():
            return f"[{', '.join(_value(item, key) for item in value)}]"
        case _:
            raise SettingError.of(key, value, "a configuration file cannot hold it", "use plain values and lists")


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
    escaped = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise SettingError.of("text", text, "it is not valid Unicode", "write it with plain characters")
    return escaped
