"""Worlds: how the positions of a game with hidden information become trees.

A decision must not depend on what the mover does not see. So the true state of such a game never enters a forest:
at each decision K worlds are drawn from those that the mover cannot tell apart (K = 1 included), each is searched by
a tree of its own, and the visits of their roots are added up. Position p owns the trees p * K ... p * K + K - 1.
Without hidden information a position has one tree, over the state itself.

The worlds of one position look alike to their mover: with a cache, their roots cost one evaluation together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grove.common.errors import SettingError
from grove.game.contract import Game
from grove.mcts.kernels import rows
from grove.mcts.settings import SearchSettings

Ints = npt.NDArray[np.int32]


def check_worlds(game: Game, settings: SearchSettings) -> None:
    """Raise SettingError where the settings of worlds, or of reuse, do not suit what the game hides."""
    if settings.worlds > 1 and not game.hidden_information:
        limit = f"nothing is hidden in {game.name}: all its worlds would be the same"
        raise SettingError.of("worlds", settings.worlds, limit, "use --worlds 1")
    if settings.reuse and game.hidden_information:
        limit = f"{game.name} hides information: each decision draws fresh worlds, to which no subtree belongs"
        raise SettingError.of("reuse", True, limit, "leave --reuse out")


def largest_share(settings: SearchSettings) -> int:
    """Return the most simulations that one tree makes for one decision."""
    return int(shares(settings, np.array([settings.simulations], np.int32)).max())


def shares(settings: SearchSettings, targets: Ints) -> Ints:
    """Return the simulations of every tree, int32 [B, K], of positions that want `targets` int32 [B].

    A decision's evaluations are its simulations and one for each root, so that K worlds make K - 1 fewer simulations
    than one does with as many evaluations. Positions at rest (target 0) have trees at rest. Raises ValueError for a
    target that would leave a tree without a simulation.
    """
    worlds = settings.worlds
    if settings.simulations_per == "world":
        return np.repeat(targets[:, None], worlds, axis=1)
    evaluations = np.where(targets > 0, targets + 1, worlds)[:, None]
    if (evaluations[targets > 0] < 2 * worlds).any():
        raise ValueError(f"{worlds} worlds cannot share fewer than {2 * worlds - 1} simulations")
    rest = np.arange(worlds) < evaluations % worlds
    return np.asarray(evaluations // worlds + rest - 1, np.int32)


class Worlds:
    """The worlds of a forest's positions: which trees are whose, and what stands at their roots."""

    def __init__(self, game: Game, settings: SearchSettings) -> None:
        check_worlds(game, settings)
        self.count = settings.worlds  # K
        self.hidden = game.hidden_information
        self._game, self._settings = game, settings

    def trees_of(self, positions: Ints) -> Ints:
        """Return the trees int32 [B, K] of positions int32 [B]."""
        if self.count == 1:
            return positions[:, None]
        return np.asarray(positions[:, None] * self.count + np.arange(self.count), np.int32)

    def draw(
        self, roots: npt.NDArray[np.void], states: npt.NDArray[np.void]
    ) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
        """Return roots (ROOT [B * K]) and worlds (S [B * K]) of all trees of the positions `roots` (ROOT [B]).

        `states` S [B] are the true ones. World w is a function of what the mover sees, the root's key, its ply and w.
        The trees of a position at rest get no state, which may be that of a finished game.
        """
        targets = shares(self._settings, roots["target"]).reshape(-1)
        of_trees = np.repeat(roots, self.count)
        of_trees["target"] = targets
        seeds = np.empty(len(of_trees), np.uint64)
        rows.spread(of_trees, seeds, self.count)
        worlds = np.zeros(len(of_trees), states.dtype)
        searched = np.flatnonzero(targets > 0)
        if len(searched):
            drawn = np.zeros(len(searched), states.dtype)
            self._game.determinize(states[searched // self.count], seeds[searched], drawn)
            worlds[searched] = drawn
        return of_trees, worlds
