"""From the text of a game spec to the game: ``connect_four``, ``hex:size=7``, or a user's ``PATH/FILE.py:Class``."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, cast, get_args

from grove.common.errors import ContractError, SettingError
from grove.common.user_class import is_class_spec, load_class
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
    arguments and must provide the members of :class:`grove.game.contract.Game`, of which `name` is set here. It is
    named as
    ``package.module:Class`` or ``PATH/FILE.py:Class`` (:mod:`grove.common.user_class`). The rules themselves are not
    tried:
    :func:`grove.game.contract.check` does that.

    Raises:
        SettingError: no such game, parameter or class, or a value out of range.
        ContractError: a user's class lacks members.
    """
    name, colon, rest = spec.partition(":")
    if name in BUILT_IN:
        return BUILT_IN[name](**_parameters(spec, name, rest if colon else None))
    if is_class_spec(spec):
        return _user_game(spec)
    raise SettingError.of("game", spec, f"the known games are {', '.join(sorted(BUILT_IN))}", _remedy(name))


def canonical_spec(spec: str) -> str:
    """Return the one spelling of `spec`, with all parameters: ``hex`` becomes ``hex:size=11``; errors as load_game."""
    return load_game(spec).name


def _remedy(name: str) -> str:
    close = difflib.get_close_matches(name, BUILT_IN, n=1)
    own = "name your own as PATH/FILE.py:Class or package.module:Class"
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


def _user_game(spec: str) -> Game:
    cls = load_class("game", spec)
    return AdaptedGame(cls, spec) if hasattr(cls, "legal_actions") else _batch_game(spec, cls)


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
