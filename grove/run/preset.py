"""Presets: named loads as TOML files under the names of the flags, the user's own before those of the package.

A preset's first line is a comment that describes the load. `--preset NAME` finds NAME.toml in the folders below.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from grove.common.errors import SettingError
from grove.run.folder import write_whole

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def folders() -> list[Path]:
    """Return where presets are looked for: the user's folder, then the package's."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return [Path(config) / "grove" / "presets", Path(__file__).with_name("presets")]


def known() -> dict[str, Path]:
    """Return the file of every preset by name; a user's preset hides a shipped one of the same name."""
    return {path.stem: path for folder in reversed(folders()) for path in sorted(folder.glob("*.toml"))}


def read_preset(name: str) -> dict[str, Any]:
    """Return the settings of preset `name`. Raises SettingError when there is none or it cannot be read."""
    files = known()
    if name not in files:
        close = difflib.get_close_matches(name, files, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"choose one of them, or put {folders()[0]}/NAME.toml there"
        raise SettingError.of("preset", name, f"the known presets are {', '.join(files)}", remedy)
    try:
        return tomllib.loads(files[name].read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError.of("preset", name, f"{files[name]} cannot be read ({error})", "mend the file") from None


def check_new(name: str, overwrite: bool) -> None:
    """Raise SettingError when `name` cannot name a new preset of the user's."""
    if not _NAME.match(name):
        limit = "it must be letters, digits, dots, dashes and underscores, a letter or digit first"
        raise SettingError.of("name", name, limit, "choose such a name")
    if name in known() and not overwrite:
        raise SettingError.of("name", name, f"{known()[name]} is there", "choose another --name or give --overwrite")


def write_preset(name: str, about: str, settings: Mapping[str, Any]) -> Path:
    """Write the user's preset `name`, described by the one line `about`; return its file.

    Raises SettingError when the folder cannot be written to.
    """
    path = folders()[0] / f"{name}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"# {' '.join(about.split())}\n{tomli_w.dumps(dict(settings))}")
    except OSError as error:
        raise SettingError.of("name", name, f"{path} cannot be written ({error})", "mend the folder") from None
    return path
