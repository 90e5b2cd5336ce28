"""The search: forests of trees that ask for evaluations and are told answers; arrays in, arrays out.

`SearchSettings` says how a decision is searched, `Forest` searches T positions at once, `EvaluationCache` remembers
evaluations. Nothing here knows a network, a socket or a clock.
"""

from mcts.cache import EvaluationCache
from mcts.forest import Forest, Rows, forest_capacity, make_cache
from mcts.layout import NONE, ROOT, Capacity
from mcts.settings import SearchSettings

__all__ = [
    "NONE",
    "ROOT",
    "Capacity",
    "EvaluationCache",
    "Forest",
    "Rows",
    "SearchSettings",
    "forest_capacity",
    "make_cache",
]
