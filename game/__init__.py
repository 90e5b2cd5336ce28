"""The rules. A game is a set of batch functions over flat numpy states; it knows no network, no socket, no search.

`Game` is the contract, `check` asserts it, `load_game` finds a game by its spec. The games are in `connect_four`,
`hex` and `blob`; `adapter` makes a plain Python class a game.
"""

from grove.game.adapter import AdaptedGame, PythonGame
from grove.game.check import check
from grove.game.contract import Game, PerfectInformation, Symmetry
from grove.game.registry import canonical_spec, load_game

__all__ = [
    "AdaptedGame",
    "Game",
    "PerfectInformation",
    "PythonGame",
    "Symmetry",
    "canonical_spec",
    "check",
    "load_game",
]
