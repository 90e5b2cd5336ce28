"""Which models a recorded move names, while they change at any moment: exactly those that answered its search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.game import load_game
from grove.game.contract import Game
from grove.mcts import SearchSettings, make_cache
from grove.records.record import GameRecord
from grove.records.versions import JOINT, ModelVersions
from grove.workers.selfplay.group import Group
from tests.workers.test_group import evaluated


class Table:
    """A group that plays while models change, and its own book of who answered what."""

    def __init__(self, game: Game, options: SearchSettings, slots: int, seed: int) -> None:
        self.game = game
        self.group = Group(game, game.name, options, slots, make_cache(game, options))
        self.random = np.random.default_rng(seed)
        self.serving = {0: "m0"}  # model slot -> model
        self.newest = 0
        self.fresh = 1
        self.heard: list[list[str]] = [[] for _ in range(slots)]  # answers to the present decision, in order
        self.wanted: dict[int, list[str | None]] = {}

    def swap(self, between_games: bool) -> None:
        if between_games:
            self.newest += 1
        self.serving[self.newest] = f"m{self.fresh}"
        self.fresh += 1

    def play(self, games: int, between_games: bool) -> list[GameRecord]:
        waiting = list(range(games))
        while waiting or self.group.playing:
            self._grow(waiting)
            parts = [(rows.ids.copy(), rows.slot, evaluated(self.game, rows)) for rows in self.group.ask()]
            for part in self.random.permutation(len(parts)):
                ids, slot, answer = parts[part]
                failed = np.flatnonzero(self.random.random(len(ids)) < 0.05).astype(np.int32)
                answer = answer._replace(version=self.serving[slot], failed=failed)
                for position in set(self.group.forest.positions_of(np.delete(ids, failed)).tolist()):
                    self.heard[position].append(answer.version)
                self.group.tell(ids, answer, slot)
                if self.random.random() < 0.1:
                    self.swap(between_games)
        return self.group.finished

    def _grow(self, waiting: list[int]) -> None:
        while True:
            count = min(len(self.group.free), len(waiting))
            self.group.start(5, [waiting.pop(0) for _ in range(count)], model_slot=self.newest)
            decided = self.group.search()
            if self.group.may_wait(len(decided)) or (len(decided) and self.random.random() < 0.3):
                return
            for position in decided.tolist():
                index = self.group._plays[position].index
                self.wanted.setdefault(index, []).append(JOINT.join(dict.fromkeys(self.heard[position])))
                self.heard[position] = []
            self.group.play(decided)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 20), st.integers(1, 12), st.booleans(), st.sampled_from([1, 3]))
def test_a_move_names_the_models_that_answered_it(seed: int, slots: int, between_games: bool, leaves: int) -> None:
    game = load_game("hex:size=3")
    table = Table(game, SearchSettings(simulations=8, leaves=leaves), slots, seed)
    records = table.play(12, between_games)
    assert sorted(record.index for record in records) == list(range(12))
    for record in records:
        assert [model for model in record.models if model] == table.wanted[record.index]
        if between_games:
            assert len(set(record.models) - {None}) == 1


def test_models_change_in_mid_search_at_once_and_never_between_games() -> None:
    game = load_game("hex:size=3")
    for between_games in (False, True):
        records = Table(game, SearchSettings(simulations=8), 8, 1).play(40, between_games)
        models = {model for record in records for model in record.models if model}
        assert len(models) > 3
        assert any(JOINT in model for model in models) == (not between_games)


@pytest.mark.parametrize("options", [{"reuse": True}, {"cache": 4096}])
def test_kept_trees_and_cached_answers_may_name_too_many_models_but_never_too_few(options: dict[str, int]) -> None:
    game = load_game("hex:size=3")
    table = Table(game, SearchSettings(simulations=8, **options), 8, 3)
    for record in table.play(40, False):
        found = [model.split(JOINT) for model in record.models if model]
        wanted = [model.split(JOINT) for model in table.wanted[record.index]]
        assert all(set(mine) <= {*models, ""} for models, mine in zip(found, wanted, strict=True))


def test_the_book_alone() -> None:
    versions = ModelVersions()
    versions.heard(0, "a", lambda: [1, 2, 3], lambda: [])
    assert versions.played(0, 1, kept=False) == "a"
    versions.heard(0, "b", lambda: [2], lambda: [2, 3])  # 1 was played and waits; 3 is decided already
    assert versions.played(0, 1, kept=False) == "b"
    assert versions.played(0, 3, kept=False) == "a"
    versions.heard(0, "c", lambda: [2, 3], lambda: [1, 2])
    assert versions.played(0, 2, kept=True) == "a+b+c"
    assert versions.played(0, 2, kept=False) == "a+b+c"
    assert versions.played(0, 2, kept=False) == "c"
    assert versions.played(0, 1, kept=False) == "b"
    versions.heard(0, "d", lambda: [], lambda: [3])
    versions.over(3)
    assert versions.played(0, 3, kept=False) == "d"
