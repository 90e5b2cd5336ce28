"""The Forest: many search trees that ask for evaluations and are told answers.

    forest.set_roots(roots, states)         # positions to search
    while len(decided := forest.search()):  # those whose search is complete
        ...                                 # play their moves, set roots again
    rows = forest.ask()                     # one row per waiting leaf, at most L per tree
    forest.tell(rows.ids, logits, values, version)  # any subset, any order; forest.drop(ids) for rows that failed

No callback, no I/O, no network: arrays out, arrays in. Symbols as in mcts/kernels/layout.py. Users count positions,
kernels count trees: K = `worlds` trees a position in a game with hidden information (mcts/worlds.py), one in any other.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from grove.common.errors import SettingError
from grove.game.contract import Game
from grove.mcts.kernels import cache as caches
from grove.mcts.kernels import expand, layout, moves, rows
from grove.mcts.kernels.bound import BoundKernels
from grove.mcts.kernels.reroot import reroot
from grove.mcts.settings import SearchSettings, temperature_steps
from grove.mcts.workspace import PendingLeaves, Workspace, bytes_of_states, observation_bytes
from grove.mcts.worlds import Worlds, check_worlds, largest_share

Ints = npt.NDArray[np.int32]


class LeafRows(NamedTuple):
    """Leaves that want an evaluation. Arrays are views, valid until the forest's next search or ask."""

    ids: Ints
    """[B] names to tell the answers by."""
    observations: npt.NDArray[Any]
    """[B, *observation_shape], from the mover's seat."""
    forest: Forest

    def legal(self) -> tuple[npt.NDArray[np.int64], Ints]:
        """Return the legal moves as offsets int64 [B + 1] and actions int32, ragged and ascending."""
        return self.forest.legal_of(self.ids)

    def states(self) -> npt.NDArray[np.void]:
        """Return the game states S [B]; for evaluators that play on instead of asking a network."""
        return self.forest.states_of(self.ids)


class Forest:
    """The trees of `positions` positions of one game, as flat pools of records; see mcts/kernels/layout.py.

    The pools `trees`, `nodes`, `edges`, `legal` and `states`, and the leaves that are `pending`, may be read, for tools
    that draw or compare trees, and not be written.
    Raises SettingError where the settings do not suit the game, as `forest_capacity` does.
    """

    def __init__(
        self, game: Game, positions: int, settings: SearchSettings, cache: caches.EvaluationCache | None = None
    ) -> None:
        self.game, self.settings, self.cache = game, settings, cache
        self.capacity = forest_capacity(game, positions, settings)
        self._worlds = Worlds(game, settings)
        self._widths = ((game.num_players,), (1,)) if game.zero_sum else ((game.num_players,),)  # of values
        players, trees = game.num_players, self.capacity.trees
        self.trees = np.zeros(trees, layout.tree_dtype(players))
        self.nodes = layout.pool(trees * self.capacity.nodes, layout.node_dtype(players))
        self.edges = layout.pool(trees * self.capacity.edges, layout.edge_dtype(players))
        self.legal = layout.pool(trees * self.capacity.edges, layout.LEGAL)
        self.states = np.zeros((len(self.nodes), game.state_dtype.itemsize), np.uint8)
        self._explore = exploration(settings, self.capacity.nodes + settings.leaves + 1)
        self._temperatures = temperature_table(settings.temperature)
        self._workspace = Workspace(game, trees * settings.leaves)
        self.pending = PendingLeaves(game, trees, settings.leaves)
        self._decided = np.zeros(positions, np.int32)
        pools = (self.trees, self.nodes, self.edges, self.legal, self.states, self._explore)
        self._kernels = BoundKernels(game, pools, self._workspace, self.pending)
        self._former = 0  # descents made in trees that got new roots since
        self._bare = False  # some tree may lack a root
        self._still = False  # every tree waits or is decided, until roots are set, answers told or leaves dropped
        self._configure()

    def _configure(self) -> None:
        settings = self.settings
        for name in ("fpu_reduction", "virtual_loss", "timeout_utility", "noise_fraction", "noise_alpha", "leaves"):
            self.trees[name] = getattr(settings, name)
        self.trees["max_ply"] = min(settings.max_moves or self.game.max_moves, self.game.max_moves)

    @property
    def simulations(self) -> int:
        """Descents made so far."""
        return self._former + int(self.trees["simulations"].sum())

    # -- roots ---------------------------------------------------------------------------------------------------

    def set_roots(self, roots: npt.NDArray[np.void], states: npt.NDArray[np.void]) -> None:
        """Start a search in the positions `roots` (layout.ROOT [B]) from `states` S [B], which must not be finished.

        In a game with hidden information the trees get worlds drawn from `states`, never these themselves. With
        `reuse` and an action other than NONE, the subtree of that move is kept. A target of 0 puts a position to rest,
        finished or not. Rows that still wait for answers must be dropped first. Raises ValueError for a target beyond
        the settings' simulations, for which the pools have no room.
        """
        if (roots["target"] > self.settings.simulations).any():
            raise ValueError(f"a tree has room for {self.settings.simulations} simulations")
        if self._worlds.hidden:
            roots, states = self._worlds.draw(roots, states)
        self._still = False
        self._bare = True
        roots["kept"] = 0
        self._former += int(self.trees["simulations"][roots["tree"]].sum())
        if self.settings.reuse:
            reroot(self.trees, self.nodes, self.edges, self.legal, self.states, roots)
        rows.set_root_states(self.trees, self.states, roots, bytes_of_states(states))
        kept = roots["tree"][roots["kept"] != 0]
        if len(kept):
            self._former -= int(self.trees["simulations"][kept].sum())
            expand.add_noise(self.trees, self.nodes, self.edges, self.legal, kept)

    # -- growing -------------------------------------------------------------------------------------------------

    def search(self) -> Ints:
        """Descend until every tree waits for an answer or is decided; return the decided positions, ascending.

        Terminal leaves and cache hits are settled here and their trees go on.
        """
        while self._walk_all():
            pass
        self._still = True
        return self._decided[: self._kernels.decided(self.trees, self._worlds.count, self._decided)]

    def ask(self) -> LeafRows:
        """Grow, then return one row for every leaf that has not been asked yet."""
        if not self._still:
            self.search()
        pending = self.pending
        count, pending.count = pending.count, 0
        if self.cache is not None:
            pending.table.fill(layout.NONE)
        return LeafRows(pending.asked[:count], pending.observations[:count], self)

    def _walk_all(self) -> bool:
        """Take every tree to a leaf once; return whether a cache hit let some tree go on."""
        space = self._workspace
        count = 0
        if self._bare:
            self._bare = False
            count = self._kernels.list_roots(self.trees, self.nodes, space.work)
            self._fetch(0, count)
        going_on = True
        while going_on and count < space.size:
            found = self._kernels.descend(
                self.trees, self.nodes, self.edges, self.legal, self._explore, space.work[count:]
            )
            kept = self._step(count, count + found) if found else 0
            count += kept
            going_on = kept < found or (found > 0 and self.settings.leaves > 1)
        return count > 0 and self._place(count)

    def _fetch(self, start: int, end: int) -> None:
        space = self._workspace
        self._kernels.fetch(self.states, self.legal, space.work[start:end], space.raw[start:end], space.actions)

    def _step(self, start: int, end: int) -> int:
        """Play the rows' moves; settle those that end the game; return how many rows are left."""
        space, kernels, size = self._workspace, self._kernels, end - start
        self._fetch(start, end)
        states, done, utility = space.states[start:end], space.done[:size], space.utility[:size]
        kernels.step(states, space.actions[:size])
        kernels.outcome(states, done, utility)
        kept = int(kernels.settle(self.trees, self.nodes, self.edges, space.work[start:end], done, utility))
        if kept < size:
            kernels.close_ranks(space.work[start : start + kept], space.raw[start:end])
        return kept

    def _place(self, count: int) -> bool:
        """Give `count` rows their leaves and observations; return whether cache hits were settled."""
        space, pending, kernels = self._workspace, self.pending, self._kernels
        states = space.states[:count]
        ids = space.ids[:count]
        kernels.legal(states, space.offsets, space.legal)
        kernels.to_play(states, space.to_play[:count])
        kernels.take_leaves(pending.by_tree, space.work[:count], space.to_play, space.raw, pending.raw, ids)
        kernels.keep_legal(pending.leaves, pending.actions, ids, space.offsets, space.legal)
        if self.cache is not None:
            return self._place_cached(self.cache, ids, states)
        end = pending.count + count
        kernels.observe(states, pending.observations[pending.count : end])
        pending.asked[pending.count : end] = ids
        pending.count = end
        return False

    def _place_cached(self, cache: caches.EvaluationCache, ids: Ints, states: npt.NDArray[np.void]) -> bool:
        space, pending, count = self._workspace, self.pending, len(ids)
        raw = space.raw_rows[:count]
        self.game.observe(states, space.rows[:count])
        rows.hash_rows(raw, space.hashes[:count])
        rows.keep_rows(pending.leaves, ids, raw, pending.raw_rows, space.hashes)
        cache.find(space.hashes[:count], raw, space.found[:count])
        hits = int(caches.list_hits(ids, space.found, space.told, space.misses, self.game.max_legal))
        asked = pending.asked[pending.count :]
        new = int(caches.merge(pending.leaves, pending.raw_rows, space.misses[: count - hits], pending.table, asked))
        rows.gather(pending.raw_rows, asked[:new], pending.raw_observations[pending.count :])
        pending.count += new
        if hits:
            self._absorb(space.told[:hits], cache.logits.reshape(-1), cache.values, dense=False)
        return hits > 0

    # -- answers -------------------------------------------------------------------------------------------------

    def tell(
        self, ids: Ints, logits: npt.NDArray[np.float32], values: npt.NDArray[np.float32], version: str = ""
    ) -> None:
        """Give the answers to rows `ids` [B]: any subset of what was asked, in any order.

        `logits` float32 [B, A], or ragged [sum of legal moves] in the order of `ids`; `values` float32 [B, P]
        seat-relative (mover first, then clockwise), or [B, 1] from a two-player zero-sum network. `version` names the
        model, for the cache. Raises ValueError for an id that waits for nothing, for an answer of another shape and for
        one that is not finite; nothing is changed then.
        """
        dense = logits.ndim == 2
        count, wide = len(ids), self.game.num_actions
        # The kernels trust these shapes: they would read and write beyond others.
        if values.shape[1:] not in self._widths or len(values) != count or (dense and logits.shape != (count, wide)):
            raise self._misshapen(count, logits, values)
        ids, logits = np.ascontiguousarray(ids, np.int32), np.ascontiguousarray(logits, np.float32)
        values = np.ascontiguousarray(values, np.float32)
        told = self._told(ids, logits.shape[1] if dense else 0)
        flat = logits.reshape(-1)
        broken = self._kernels.find_broken(self.pending.leaves, self.pending.actions, told, flat, values, dense)
        if broken != layout.NONE:
            row = told["row"][broken]
            expand.unlist(self.pending.leaves, ids, told)
            raise ValueError(f"the answer to row {int(ids[row])} is not finite")
        self._absorb(told, flat, values, dense)
        if self.cache is not None:
            pending = self.pending
            self.cache.store(pending.leaves, pending.raw_rows, pending.actions, told, (flat, values, dense, version))

    def _misshapen(self, count: int, logits: npt.NDArray[Any], values: npt.NDArray[Any]) -> ValueError:
        wanted = [count, self.game.num_actions], [count, self.game.num_players]
        found = list(logits.shape), list(values.shape)
        return ValueError(f"logits and values must be {wanted[0]} and {wanted[1]}, not {found[0]} and {found[1]}")

    def drop(self, ids: Ints) -> None:
        """Take back rows `ids` [B] that will not be answered; their trees stand as before they asked."""
        told = self._told(np.ascontiguousarray(ids, np.int32), 0)
        self._bare = True
        expand.withdraw(self.trees, self.nodes, self.edges, self.legal, self.pending.leaves, told)
        if self.pending.count:
            self.pending.forget_dropped()

    def _told(self, ids: Ints, width: int) -> npt.NDArray[np.void]:
        self._still = False
        told = self.pending.told
        count = int(self._kernels.list_told(self.pending.leaves, ids, told, width))
        if count < 0:
            raise ValueError(f"row {int(ids[-1 - count])} waits for no answer")
        return told[:count]

    def _absorb(
        self,
        told: npt.NDArray[np.void],
        logits: npt.NDArray[np.float32],
        values: npt.NDArray[np.float32],
        dense: bool,
    ) -> None:
        trees, nodes, edges, pending = self.trees, self.nodes, self.edges, self.pending
        kernels = self._kernels
        kernels.attach(trees, nodes, self.legal, pending.leaves, pending.actions, told)
        kernels.store_states(self.states, pending.leaves, pending.raw, told)
        kernels.set_priors(nodes, self.legal, pending.leaves, told, logits, dense)
        if kernels.answer(trees, nodes, edges, pending.leaves, told, values):
            leaves = pending.leaves[told["leaf"]]
            expand.add_noise(trees, nodes, edges, self.legal, leaves["tree"][leaves["edge"] == layout.NONE])

    # -- reading -------------------------------------------------------------------------------------------------

    def root_visits(self, positions: Ints) -> tuple[npt.NDArray[np.int64], Ints]:
        """Return offsets int64 [B + 1] and pairs int32 [., 2]: action and visits of visited root edges, by action.

        Visits are summed over the worlds of a position.
        """
        offsets = np.empty(len(positions) + 1, np.int64)
        pairs = np.empty((len(positions) * self.game.max_legal, 2), np.int32)
        roots = self._worlds.trees_of(positions) * self.capacity.nodes
        moves.root_visits(self.nodes, self.edges, self.legal, roots, offsets, pairs)
        return offsets, pairs

    def root_values(self, positions: Ints) -> npt.NDArray[np.float64]:
        """Return the mean backed-up value of every seat, float64 [B, P], absolute seats; every world counts alike."""
        chosen = self.trees[self._worlds.trees_of(positions)]
        sums: npt.NDArray[np.float64] = (chosen["value"] / (chosen["simulations"][..., None] + 1)).sum(axis=1)
        return sums / self._worlds.count

    def choose(self, positions: Ints, visits: tuple[npt.NDArray[np.int64], Ints]) -> Ints:
        """Return the moves int32 [B] that decided positions play, by temperature, age and the games' own keys."""
        trees = self._worlds.trees_of(positions)
        out = np.empty(len(positions), np.int32)
        moves.choose(self.trees, np.ascontiguousarray(trees[:, 0]), *visits, self._temperatures, out)
        return out

    def legal_of(self, ids: Ints) -> tuple[npt.NDArray[np.int64], Ints]:
        """Return the ragged legal moves (offsets int64 [B + 1], actions int32) of asked rows."""
        offsets = np.empty(len(ids) + 1, np.int64)
        actions = np.empty(len(ids) * self.game.max_legal, np.int32)
        rows.list_legal(self.pending.leaves, self.pending.actions, ids, offsets, actions)
        return offsets, actions[: offsets[-1]]

    def states_of(self, ids: Ints) -> npt.NDArray[np.void]:
        """Return copies of the game states S [B] of asked rows."""
        states: npt.NDArray[np.void] = self.pending.states[ids]
        return states

    def waiting(self) -> Ints:
        """Return the ids of all rows, asked or about to be, that were neither told nor dropped."""
        leaves = self.pending.leaves
        return np.flatnonzero(leaves["state"] == layout.PLACED).astype(np.int32)

    def evaluated_states(self, position: int) -> npt.NDArray[np.uint8]:
        """Return the states uint8 [n, S] that were evaluated for the position's present search, in all its worlds."""
        parts = []
        for tree in range(position * self._worlds.count, (position + 1) * self._worlds.count):
            first = tree * self.capacity.nodes
            nodes = slice(first, first + int(self.trees["nodes"][tree]))
            parts.append(self.states[nodes][self.nodes["terminal"][nodes] == 0])
        return np.concatenate(parts)


def forest_capacity(game: Game, positions: int, settings: SearchSettings) -> layout.Capacity:
    """Return the pools that the trees of `positions` positions need, and their bytes.

    Raises SettingError beyond 2**31 entries, and where `settings` do not suit what the game hides (`check_worlds`).
    """
    check_worlds(game, settings)
    trees = positions * settings.worlds
    row_bytes = (game.state_dtype.itemsize, observation_bytes(game), game.num_players)
    needed = layout.capacity(trees, largest_share(settings), settings.leaves, game.max_legal, row_bytes)
    if trees * needed.edges >= 2**31:
        limit = f"the edges of one group's {trees} trees must stay below 2**31"
        raise SettingError.of("games-per-worker", positions, limit, "use fewer games per worker or more groups")
    return needed


def make_cache(game: Game, settings: SearchSettings) -> caches.EvaluationCache | None:
    """Return the cache that `settings.cache` asks for, or None."""
    if settings.cache == 0:
        return None
    return caches.EvaluationCache(settings.cache, observation_bytes(game), game.max_legal)


def exploration(settings: SearchSettings, size: int) -> npt.NDArray[np.float64]:
    """Return c(n) * sqrt(n) for n < `size`, with c(n) = log((1 + n + c_base) / c_base) + c_init (AlphaZero)."""
    base, init = settings.c_puct_base, settings.c_puct
    return np.array([(math.log((1 + n + base) / base) + init) * math.sqrt(n) for n in range(size)])


def temperature_table(schedule: str) -> npt.NDArray[np.float64]:
    """Return the temperature of every ply up to the schedule's last step, whose entry holds from there on."""
    steps = temperature_steps(schedule)
    table = np.empty(steps[-1][0] + 1)
    for move, value in steps:
        table[move:] = value
    return table
