"""The search: forests of trees that ask for evaluations and are told answers; arrays in, arrays out.

`SearchSettings` says how a decision is searched. `Forest` searches many positions at once, each by one tree or, where
the game hides information, by one for each world drawn. `EvaluationCache` remembers evaluations. Nothing here knows a
network, a socket or a clock.
"""

from grove.mcts.forest import Forest, LeafRows, forest_capacity, make_cache
from grove.mcts.kernels.cache import EvaluationCache
from grove.mcts.kernels.layout import NONE, ROOT, Capacity
from grove.mcts.settings import SearchSettings
from grove.mcts.worlds import check_worlds

__all__ = [
    "NONE",
    "ROOT",
    "Capacity",
    "EvaluationCache",
    "Forest",
    "LeafRows",
    "SearchSettings",
    "check_worlds",
    "forest_capacity",
    "make_cache",
]
