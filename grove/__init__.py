"""Self-play data for AlphaZero-style training: many search workers share one batching inference server.

    import grove

    summary = grove.selfplay("connect_four", games=200, simulations=100, out="runs/first")
    for game in grove.read_games(summary.folder):
        for position in game.positions():
            ...                                 # position.observation, .legal, .visits, .value, .seat

    with grove.serve("hex:size=7", model="net.safetensors") as endpoint, grove.connect(endpoint) as client:
        logits, values = client.evaluate(observations)

Nothing is loaded before it is used. docs/reference/api.md describes every name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grove.api import Summary, connect, read_games, selfplay, serve
    from grove.collector import PositionCollector
    from grove.common.errors import GroveError
    from grove.connection import ServerConnection
    from grove.game import load_game
    from grove.inference_server import RowSpec
    from grove.inference_server.models.model_file import save_model
    from grove.mcts import Forest, SearchSettings
    from grove.records.replay import Position, RecordedGame
    from grove.workers.selfplay.evaluators import row_spec

_HOMES = {
    "Forest": "grove.mcts",
    "GroveError": "grove.common.errors",
    "Position": "grove.records.replay",
    "PositionCollector": "grove.collector",
    "RecordedGame": "grove.records.replay",
    "RowSpec": "grove.inference_server",
    "SearchSettings": "grove.mcts",
    "ServerConnection": "grove.connection",
    "Summary": "grove.api",
    "connect": "grove.api",
    "load_game": "grove.game",
    "read_games": "grove.api",
    "row_spec": "grove.workers.selfplay.evaluators",
    "save_model": "grove.inference_server.models.model_file",
    "selfplay": "grove.api",
    "serve": "grove.api",
}
__all__ = [
    "Forest",
    "GroveError",
    "Position",
    "PositionCollector",
    "RecordedGame",
    "RowSpec",
    "SearchSettings",
    "ServerConnection",
    "Summary",
    "connect",
    "load_game",
    "read_games",
    "row_spec",
    "save_model",
    "selfplay",
    "serve",
]


def __getattr__(name: str) -> Any:
    """Load what is used for the first time (PEP 562): `import grove` alone loads neither torch nor numba."""
    if name not in _HOMES:
        raise AttributeError(f"module 'grove' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
