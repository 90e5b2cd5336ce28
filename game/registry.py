"""From the text of a game spec to the game: ``connect_four``, ``hex:size=7``, or a user's ``package.module:Class``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

from grove.common.errors import ContractError, SettingError
from grove.game.adapter import AdaptedGame
from grove.game.blob import Blob
from grove.game.connect_four import ConnectFour
from grove.game.contract import Game, PerfectInformation
from grove.game.hex import Hex

BUILT_IN: dict[str, Callable[..., Game]] = {"blob": Blob, "connect_four": ConnectFour, "hex": Hex}
"""Built-in games by name; the keyword arguments of a class, integers or one of a few words, are those of its spec."""

_MEMBERS = [
    *("num_players", "num_actions", "max_legal", "max_moves", "state_dtype", "observation_shape"),
    *("observation_dtype", "zero_sum", "compiled"),
    *("initial", "step", "legal", "to_play", "outcome", "observe", "parse", "render_action", "render"),
]


def load_game(spec: str) -> Game:
    """Return the game that `spec` names: a built-in one with parameters, or a user's class.

    A user's class with ``legal_actions`` is a plain Python game (:mod:`grove.game.adapter`); any other is made without
    arguments and must provide the members of :class:`grove.game.contract.Game`, of which `name` is set here. The
    current directory is appended to the import path. The rules themselves are not tried:
    :func:`grove.game.contract.check` does that.

    Raises:
        SettingError: no such game, parameter or class, or a value out of range.
        ContractError: a user's class lacks members.
    """
    name, colon, rest = spec.partition(":")
    if name in BUILT_IN:
        return BUILT_IN[name](**_parameters(spec, name, rest if colon else None))
    if rest.isidentifier():
        return _user_game(spec, name, rest)
    raise SettingError.of("game", spec, f"the known games are {', '.join(sorted(BUILT_IN))}", _remedy(name))


def canonical_spec(spec: str) -> str:
    """Return the one spelling of `spec`, with all parameters: ``hex`` becomes ``hex:size=11``; errors as load_game."""
    return load_game(spec).name


def _remedy(name: str) -> str:
    close = difflib.get_close_matches(name, BUILT_IN, n=1)
    own = "name your own as package.module:Class"
    return f"did you mean {close[0]}? Otherwise {own}" if close else own


def _parameters(spec: str, name: str, text: str | None) -> dict[str, int | str]:
    """Return the parameters written in `text` as ``key=value,...`` (None: no colon was there)."""
    known = inspect.signature(BUILT_IN[name], eval_str=True).parameters
    accepted = f"{name} takes {' and '.join(known) or 'no parameters'}"
    found: dict[str, int | str] = {}
    for item in [] if text is None else text.split(","):
        key, equals, value = item.partition("=")
        if not equals or not value or key not in known:
            example = f"{name}:{next(iter(known))}=7" if known else name
            raise SettingError.of("game", spec, f"{accepted}, not {item!r}", f"write e.g. {example}")
        if key in found:
            raise SettingError.of("game", spec, f"{key} is given twice", "give it once")
        words = get_args(known[key].annotation)
        found[key] = _word(spec, key, value, words) if words else _integer(spec, key, value)
    return found


def _word(spec: str, key: str, value: str, words: tuple[str, ...]) -> str:
    if value in words:
        return value
    raise SettingError.of("game", spec, f"{key} must be {' or '.join(words)}", f"write e.g. {key}={words[0]}")


def _integer(spec: str, key: str, value: str) -> int:
    digits = value.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) < 10:
        return int(value)
    raise SettingError.of("game", spec, f"{key} must be an integer, not {value!r}", f"write e.g. {key}=7")


def _user_game(spec: str, module_name: str, class_name: str) -> Game:
    module = _import_module(spec, module_name)
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        names = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        limit = f"{module_name} has no class {class_name} (it has {', '.join(names) or 'none'})"
        raise SettingError.of("game", spec, limit, "correct the name after the colon")
    if hasattr(cls, "legal_actions"):
        return AdaptedGame(cls, spec)
    return _batch_game(spec, cls)


def _import_module(spec: str, module_name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module does at import is a fault of the setting
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, ModuleNotFoundError) and error.name and module_name.startswith(error.name):
            remedy = f"run from the folder that holds {error.name}, or choose from {', '.join(sorted(BUILT_IN))}"
        else:
            remedy = "mend the module"
        raise SettingError.of("game", spec, f"importing {module_name} failed ({reason})", remedy) from error


def _batch_game(spec: str, cls: type[Any]) -> Game:
    try:
        game = type(cls.__name__, (cls, PerfectInformation), {})()  # the class's own members come first
    except Exception as error:  # as above
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise SettingError.of("game", spec, f"making it failed ({reason})", "it is made without arguments") from error
    missing = [member for member in _MEMBERS if not hasattr(game, member)]
    if missing:
        plain = "a plain Python game has legal_actions instead"
        raise ContractError(f"{spec} is not a complete game; add {', '.join(missing)} ({plain})")
    game.name = spec
    return cast(Game, game)
