"""What the measuring commands share: the load they were asked for, checked and resolved, and their folders."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from grove.common.errors import SettingError
from grove.game import Game, check, load_game
from grove.inference_server.interface.network_settings import resolve_network
from grove.mcts import check_worlds
from grove.run.settings import Load
from grove.workers.selfplay.evaluators import row_spec

T = TypeVar("T", bound=Load)


def resolve_load(settings: T) -> tuple[Game, T, str]:
    """Return the game, the settings with game and network resolved, and a line that says which network and why.

    Raises:
        GroveError: the game breaks the contract, or the settings do not suit it.
    """
    game = load_game(settings.game)
    check(game, games=2)
    check_worlds(game, settings.search)
    network, why = resolve_network(settings.network, row_spec(game))
    said = f"network: {network.model or network.network} ({why})"
    return game, replace(settings, game=game.name, network=network), said


def folder_of(settings: Load, command: str) -> Path:
    """Return the folder that was asked for, or runs/COMMAND-GAME-TIME; it is not made."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = "".join(c if c.isalnum() else "-" for c in settings.game)
    return Path(settings.out) if settings.out else Path("runs") / f"{command}-{name}-{stamp}"


def make_new(path: Path) -> Path:
    """Make the folder and return it. Raises SettingError when it cannot be written to or holds something."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = next((item.name for item in path.iterdir()), None)
    except OSError as error:
        raise SettingError.of("out", str(path), f"it cannot be used ({error})", "give a folder to write to") from None
    if foreign:
        raise SettingError.of("out", str(path), f"it holds {foreign!r} already", "give a new or empty folder")
    return path
