"""A group: the games that one worker searches together, and the record of their moves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from grove.common.rng import derive
from grove.game.contract import Game
from grove.inference_server import Answer
from grove.mcts import NONE, ROOT, EvaluationCache, Forest, LeafRows, SearchSettings
from grove.records.record import GameRecord
from grove.workers.selfplay.stagger import play_ahead

Ints = npt.NDArray[np.int32]
_SEARCH_STREAM = 1 << 40
"""Sub-stream of a game's key for its search; the game itself draws from the lower ones."""
PLAYED_TOGETHER = 1 / 16
"""Share of a group's games whose decided moves may wait, so that one call plays several; playing one costs as much."""
SAMPLE_EVERY = 64
"""One decision in so many is looked into for `distinct_evaluations`."""


@dataclass(slots=True)
class _Play:
    """A game in progress."""

    index: int
    seed: int
    started: float
    moves: list[int] = field(default_factory=list)
    visits: list[list[list[int]] | None] = field(default_factory=list)
    values: list[list[float] | None] = field(default_factory=list)
    models: list[str | None] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """Monotone counts of what a worker has done; DESIGN's figures are made of their differences."""

    games: int = 0
    timeouts: int = 0
    moves: int = 0
    decisions: int = 0
    simulations: int = 0
    evaluations: int = 0
    requests: int = 0
    failed_rows: int = 0
    sampled_decisions: int = 0
    sampled_evaluations: int = 0
    distinct_evaluations: int = 0


class Group:
    """Up to `games` games of `game`, each a position of one forest."""

    def __init__(
        self, game: Game, name: str, settings: SearchSettings, games: int, cache: EvaluationCache | None
    ) -> None:
        self.forest = Forest(game, games, settings, cache)
        self.finished: list[GameRecord] = []
        self.free = list(range(games - 1, -1, -1))
        self.tally = Tally()
        self._model = ""  # that answered last: the one that a move names
        self._game, self._name, self._settings, self._cache = game, name, settings, cache
        self._has_rounds = sum(game.units.values()) > 1
        self._max_ply = min(settings.max_moves or game.max_moves, game.max_moves)
        self._plays: list[_Play | None] = [None] * games
        self._states = np.zeros(games, game.state_dtype)
        self._plies = np.zeros(games, np.int32)
        self._keys = np.zeros(games, np.uint64)

    @property
    def playing(self) -> int:
        """Games in progress."""
        return len(self._plays) - len(self.free)

    def start(self, run_seed: int, indices: Sequence[int], stagger: bool = False) -> None:
        """Start the games `indices` in free places; each is a function of (run seed, index) and the evaluations.

        `stagger`: begin at a random ply of each, after random moves, whose visits are None in the record.
        """
        places = []
        for index in indices:
            place = self.free.pop()
            seed = int(derive(np.uint64(run_seed), index))
            self._plays[place] = _Play(index, seed, time.monotonic())
            self._plies[place] = 0
            self._keys[place] = derive(np.uint64(seed), _SEARCH_STREAM)
            places.append(place)
        if places:
            chosen = np.array(places, np.int32)
            states = np.zeros(len(places), self._game.state_dtype)
            self._game.initial(np.array([self._play(place).seed for place in places], np.uint64), states)
            if stagger:
                moves = play_ahead(self._game, states, self._keys[chosen], self._max_ply)
                self._plies[chosen] = [len(played) for played in moves]
                for place, played in zip(places, moves, strict=True):
                    for action in played:
                        self._note_unsearched(place, action)
            self._settle(chosen, states, np.full(len(places), NONE, np.int32))

    def play(self, decided: Ints) -> None:
        """Choose and play the moves of the decided games; finished ones go to `finished`."""
        visits = self.forest.root_visits(decided)
        actions = self.forest.choose(decided, visits)
        values = self.forest.root_values(decided).tolist()
        offsets, pairs = visits[0].tolist(), visits[1].tolist()
        for i, (place, action) in enumerate(zip(decided.tolist(), actions.tolist(), strict=True)):
            play = self._play(place)
            play.moves.append(action)
            play.visits.append(pairs[offsets[i] : offsets[i + 1]])
            play.values.append(values[i])
            play.models.append(self._model)
            self.tally.decisions += 1
            if self.tally.decisions % SAMPLE_EVERY == 1:  # the first one too: a slow worker makes few
                self._sample(place)
        self._step(decided, actions)

    def search(self) -> Ints:
        """Search until the trees wait or are decided; return the decided games."""
        if self._cache is not None and self._cache.version:  # its hits are answers, too
            self._model = self._cache.version
        return self.forest.search()

    def ask(self) -> LeafRows:
        """Return the rows to be evaluated."""
        return self.forest.ask()

    def tell(self, ids: Ints, answer: Answer) -> int:
        """Tell the forest what was answered; return how many rows failed. Those will be asked again.

        A row whose answer is not finite counts as failed.
        """
        self._model = answer.version
        self.tally.requests += 1
        failed = len(answer.failed)
        if not failed:
            try:
                self.forest.tell(ids, answer.logits, answer.values, answer.version)
            except ValueError:  # found an answer that is not finite; nothing was told
                failed = self._tell_partly(ids, answer)
        else:
            failed = self._tell_partly(ids, answer)
        self.tally.evaluations += len(ids) - failed
        self.tally.failed_rows += failed
        return failed

    def _tell_partly(self, ids: Ints, answer: Answer) -> int:
        offsets, _ = self.forest.legal_of(ids)
        by_row = np.split(answer.logits, offsets[1:-1]) if answer.logits.ndim == 1 else list(answer.logits)
        finite = np.isfinite(answer.values).all(axis=1) & np.array([np.isfinite(row).all() for row in by_row])
        finite[answer.failed] = False
        good = np.flatnonzero(finite)
        if len(good):
            kept = [by_row[i] for i in good]
            logits = np.concatenate(kept) if answer.logits.ndim == 1 else np.stack(kept)
            self.forest.tell(ids[good], logits, answer.values[good], answer.version)
        self.forest.drop(ids[~finite])
        return len(ids) - len(good)

    def may_wait(self, decided: int) -> bool:
        """Return whether `decided` moves may wait to be played together with later ones: others still search."""
        return decided == 0 or (decided < PLAYED_TOGETHER * len(self._plays) and decided < self.playing)

    def games_in_progress(self) -> list[int]:
        """Return the indices of the games in progress."""
        return [play.index for play in self._plays if play is not None]

    def _play(self, place: int) -> _Play:
        play = self._plays[place]
        assert play is not None, "a free place has no game"
        return play

    def _sample(self, place: int) -> None:
        states = self.forest.evaluated_states(place)
        self.tally.sampled_decisions += 1
        self.tally.sampled_evaluations += len(states)
        self.tally.distinct_evaluations += len(np.unique(states, axis=0))

    def _step(self, places: Ints, actions: Ints) -> None:
        states = self._states[places]
        self._game.step(states, actions)
        self._plies[places] += 1
        self.tally.moves += len(places)
        self._settle(places, states, actions)

    def _settle(self, places: Ints, states: npt.NDArray[np.void], actions: Ints) -> None:
        """Take up positions S [B] just reached by `actions`: end games, start searches, play forced moves."""
        self._states[places] = states
        done, utility = np.zeros(len(places), np.bool_), np.zeros((len(places), self._game.num_players))
        self._game.outcome(states, done, utility)
        over = done | (self._plies[places] >= self._max_ply)
        if over.any():
            for i in np.flatnonzero(over):
                self._finish(int(places[i]), utility[i].tolist() if done[i] else None)
            self._set_roots(places[over], states[over], actions[over], 0)
            places, states, actions = places[~over], states[~over], actions[~over]
        if len(places):
            self._set_roots(places, states, actions, self._settings.simulations)
            self._play_forced(places, states)

    def _set_roots(self, places: Ints, states: npt.NDArray[np.void], actions: Ints, target: int) -> None:
        roots = np.zeros(len(places), ROOT)
        roots["tree"], roots["ply"], roots["key"] = places, self._plies[places], self._keys[places]
        roots["target"], roots["action"] = target, actions
        roots["age"] = roots["ply"]
        if self._has_rounds and target:
            ages = np.empty(len(places), np.int32)
            self._game.age(states, ages)
            roots["age"] = ages
        self.forest.set_roots(roots, states)

    def _play_forced(self, places: Ints, states: npt.NDArray[np.void]) -> None:
        """Play the only legal move where there is just one; nothing is searched there."""
        offsets = np.zeros(len(places) + 1, np.int64)
        legal = np.zeros(len(places) * self._game.max_legal, np.int32)
        self._game.legal(states, offsets, legal)
        forced = np.flatnonzero(np.diff(offsets) == 1)
        if not len(forced):
            return
        actions = legal[offsets[forced]]
        for place, action in zip(places[forced].tolist(), actions.tolist(), strict=True):
            self._note_unsearched(place, action)
        self._step(places[forced], actions)

    def _note_unsearched(self, place: int, action: int) -> None:
        play = self._play(place)
        play.moves.append(action)
        play.visits.append(None)
        play.values.append(None)
        play.models.append(None)

    def _finish(self, place: int, utilities: list[float] | None) -> None:
        """Record the game of `place` as finished, or as a timeout where the rules gave no utilities."""
        play = self._play(place)
        self.finished.append(
            GameRecord(
                game=self._name,
                index=play.index,
                seed=play.seed,
                moves=play.moves,
                visits=play.visits,
                values=play.values,
                models=play.models,
                utilities=utilities or [self._settings.timeout_utility] * self._game.num_players,
                status="finished" if utilities else "timeout",
                seconds=time.monotonic() - play.started,
                extra=self._game.annotate(play.seed, play.moves),
            )
        )
        self.tally.games += 1
        self.tally.timeouts += not utilities
        self._plays[place] = None
        self.free.append(place)
