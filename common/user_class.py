"""A user's own class, found by its spec: `package.module:Class`, or `PATH/FILE.py:Class` wherever the file lies."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from grove.common.errors import SettingError


def is_class_spec(spec: str) -> bool:
    """Return whether `spec` is written as one of a user's class."""
    where, colon, name = spec.rpartition(":")
    dotted = where.endswith(".py") or all(part.isidentifier() for part in where.split("."))
    return bool(colon) and name.isidentifier() and dotted


def load_class(setting: str, spec: str) -> type[Any]:
    """Return the class that `spec` names; `setting` is what an error calls it.

    A module is imported, with the current folder as the last place to look. A file is loaded under a name that no other
    module has, whatever it is called; what it imports from its own folder is found there. Every process that loads the
    same spec in the same folder gets the same class. Raises SettingError.
    """
    where, _, name = spec.rpartition(":")
    module = _load(setting, spec, where)
    found = getattr(module, name, None)
    if isinstance(found, type):
        return found
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    limit = f"{where} has no class {name} (it has {', '.join(kind.__name__ for kind in own) or 'none'})"
    raise SettingError.of(setting, spec, limit, "correct the name after the colon")


def _load(setting: str, spec: str, where: str) -> ModuleType:
    try:
        if where.endswith(".py"):
            return _load_file(Path(where).resolve(strict=True))
        _look_in(Path.cwd())
        return importlib.import_module(where)
    except Exception as error:  # whatever the user's module does at import is a fault of the setting
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        remedy = "mend the module"
        if isinstance(error, FileNotFoundError) and where.endswith(".py") and not Path(where).exists():
            remedy = "give the path of the file"
        elif isinstance(error, ModuleNotFoundError) and error.name and where.startswith(error.name):
            remedy = f"run from the folder that holds {error.name}, or give it as PATH/FILE.py:Class"
        raise SettingError.of(setting, spec, f"importing {where} failed ({reason})", remedy) from error


def _load_file(path: Path) -> ModuleType:
    name = f"_grove_{path.stem}_{zlib.crc32(bytes(path)):08x}"
    if name in sys.modules:
        return sys.modules[name]
    _look_in(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _look_in(folder: Path) -> None:
    """Append `folder` to the import path; what is installed comes first."""
    if str(folder) not in sys.path and not (folder == Path.cwd() and "" in sys.path):
        sys.path.append(str(folder))
