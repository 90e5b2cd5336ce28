"""Settings of one search and of the choice of moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grove.common.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How each decision is searched; the user's, never touched by tuning for speed."""

    simulations: int = 100
    """Descents per decision after the root's own expansion (AlphaZero used 800; 100 suits small games)."""
    worlds: int = 1
    """Worlds drawn for each decision of a game with hidden information, each searched by a tree of its own. With 1,
    one world is drawn too: no search sees the true state."""
    simulations_per: Literal["world", "decision"] = "world"
    """`world`: each world gets `simulations` descents. `decision`: the worlds share the `simulations` + 1 evaluations
    that one world would cost, as evenly as possible, so that only the number of worlds varies."""
    c_puct: float = 1.25
    """Exploration constant c_init of PUCT (AlphaZero, supplementary pseudocode: 1.25)."""
    c_puct_base: float = 19652.0
    """Visits at which exploration starts to grow, c_base of PUCT (AlphaZero: 19652)."""
    fpu_reduction: float = 0.2
    """First-play urgency: an unvisited move is worth the parent's mean value less this times the square root of the
    visited prior mass (KataGo, arXiv 1902.10565: 0.2)."""
    noise_fraction: float = 0.25
    """Share of the root prior replaced by Dirichlet noise (AlphaZero: 0.25); 0 turns noise off."""
    noise_alpha: float = 0.0
    """Dirichlet concentration per legal move; 0 means 10 / legal moves, which is AlphaZero's rule of thumb."""
    temperature: str = "0:1,30:0"
    """Schedule MOVE:TEMPERATURE,...: from that move on, moves are drawn from visits ** (1 / temperature); 0 plays the
    most visited move (AlphaZero: 1 for the first 30 moves). In a game made of rounds, moves count from the round's
    first."""
    leaves: int = 1
    """Leaves that one tree may have waiting at once; more than 1 needs virtual loss and costs playing strength."""
    virtual_loss: float = 1.0
    """Loss assumed for each visit still waiting, in utility units; matters only with more than one leaf."""
    reuse: bool = False
    """Keep the played move's subtree and top it up to the wanted simulations instead of starting anew."""
    cache: int = 0
    """Evaluations remembered per worker, shared by its games, with merging of identical leaves; 0 turns both off. Games
    are the same with and without it as long as `leaves` is 1."""
    max_moves: int = 0
    """Lower cap on the moves of a game, which then ends as a timeout; 0 keeps the game's own cap."""
    timeout_utility: float = 0.0
    """Utility of every seat in a position where the cap ends the game, in [-1, 1]."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingError.of(name, value, f"it must lie in {low}..{high}", f"choose --{name.replace('_', '-')}"
                                      f" between {low} and {high}")
        temperature_steps(self.temperature)
        if self.simulations_per == "decision" and self.simulations + 1 < 2 * self.worlds:
            limit = f"{self.worlds} worlds that share them need {2 * self.worlds - 1}, two evaluations each"
            raise SettingError.of("simulations", self.simulations, limit, "use fewer --worlds or more --simulations")

    @property
    def rows(self) -> int:
        """Rows that one position may have waiting at once."""
        return self.worlds * self.leaves


_RANGES = (
    ("simulations", 1, 1_000_000),
    ("worlds", 1, 1024),
    ("c_puct", 0.0, 1000.0),
    ("c_puct_base", 1.0, 1e12),
    ("fpu_reduction", -10.0, 10.0),
    ("noise_fraction", 0.0, 1.0),
    ("noise_alpha", 0.0, 1000.0),
    ("leaves", 1, 256),
    ("virtual_loss", 0.0, 100.0),
    ("cache", 0, 100_000_000),
    ("max_moves", 0, 1_000_000),
    ("timeout_utility", -1.0, 1.0),
)


def temperature_steps(schedule: str) -> list[tuple[int, float]]:
    """Return [(first move, temperature), ...] of a schedule such as "0:1,10:0.5,20:0.1".

    Raises SettingError unless moves ascend from 0 and temperatures are not negative.
    """
    try:
        steps = [(int(move), float(value)) for move, value in (part.split(":") for part in schedule.split(","))]
    except ValueError:
        steps = []
    moves = [move for move, _ in steps]
    if not steps or moves[0] != 0 or moves != sorted(set(moves)) or any(not 0 <= value < 100 for _, value in steps):
        raise SettingError.of("temperature", schedule, "it must read MOVE:TEMPERATURE,... with moves ascending from 0",
                              'try --temperature "0:1,30:0"')
    return steps
