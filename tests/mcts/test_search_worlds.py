"""Hidden information: worlds drawn at each decision, a tree for each, visits added up, the true state never seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.common.errors import SettingError
from grove.common.rng import derive
from grove.mcts import Forest, SearchSettings, check_worlds, forest_capacity
from grove.mcts.worlds import shares
from tests.support.positions import GAMES, HIDDEN, legal_actions, played, result, some_positions, start
from tests.support.search_tools import (
    HashEvaluator,
    all_trees,
    done,
    most_visited,
    rooted,
    roots_of,
    run,
    search_settings,
    searched,
    visits_of,
    world_states,
)

quick = settings(deadline=None, derandomize=True, database=None)
rules = search_settings


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("worlds", [1, 3])
def test_hidden_cards_never_change_a_decision(name, worlds):
    """The true state gives way to others that the mover cannot tell apart: same worlds, same trees, same move."""
    game, changed = HIDDEN[name], 0
    positions, keys = some_positions(game, 12, 9)
    settings_ = SearchSettings(worlds=worlds, simulations=25, temperature="0:1")
    forest = searched(name, settings_, positions, keys)
    for seed in range(3):
        others = []
        for state, ply in positions:
            other = np.zeros(1, game.state_dtype)
            game.determinize(state, np.array([seed], np.uint64), other)
            changed += other.tobytes() != state.tobytes()
            others.append((other, ply))
        second = searched(name, settings_, others, keys)
        assert most_visited(second, 12) == most_visited(forest, 12)
        assert all_trees(second) == all_trees(forest)
    assert changed > 12


def test_the_roots_of_one_decision_cost_one_evaluation_with_a_cache():
    for cache, rows in ((1000, 1), (0, 16)):
        settings_ = rules(worlds=16, simulations=10, cache=cache)
        forest = rooted("blob3", settings_, [(start(HIDDEN["blob3"], 1), 0)], np.ones(1, np.uint64))
        assert len(forest.ask().ids) == rows


@quick
@given(st.integers(1, 50), st.integers(0, 500))
def test_shares_differ_by_one_at_most_and_keep_the_evaluations(worlds, more):
    simulations = 2 * worlds - 1 + more
    settings_ = SearchSettings(simulations=simulations, worlds=worlds, simulations_per="decision")
    split = shares(settings_, np.array([simulations, 0], np.int32))
    assert (split[0] + 1).sum() == simulations + 1
    assert split[0].min() >= 1
    assert split[0].max() - split[0].min() <= 1
    assert (np.diff(split[0]) <= 0).all()  # the first worlds get the rest
    assert split[1].tolist() == [0] * worlds
    if worlds > 1:
        with pytest.raises(ValueError, match="cannot share"):
            shares(settings_, np.array([2 * worlds - 2], np.int32))


def test_a_position_at_rest_takes_no_state_and_asks_nothing():
    game, evaluator = HIDDEN["blob3"], HashEvaluator(HIDDEN["blob3"])
    forest, over = Forest(game, 3, rules(worlds=2, simulations=5)), start(game, 1)
    while result(game, over) is None:
        over = played(game, over, legal_actions(game, over)[0])
    forest.set_roots(roots_of(3, target=[5, 0, 5]), np.concatenate([start(game, 0), over, start(game, 2)]))
    assert not any(any(raw) for raw in world_states(forest, 1))
    assert len(forest.ask().ids) == 4
    forest.tell(forest.waiting(), *evaluator.batch(np.zeros((4, *game.observation_shape), game.observation_dtype)))
    run(forest, evaluator)
    assert forest.search().tolist() == [0, 2]
    forest.set_roots(roots_of(3, target=0), np.concatenate([over] * 3))
    assert forest.search().tolist() == []
    assert len(forest.ask().ids) == 0


def test_a_position_is_decided_when_all_its_worlds_are():
    game, evaluator = HIDDEN["blob3"], HashEvaluator(HIDDEN["blob3"])
    positions = [(start(game, 0), 0), (start(game, 1), 0)]
    forest = rooted("blob3", rules(worlds=3, simulations=4), positions, np.arange(2, dtype=np.uint64))
    while (heard := (rows := forest.ask()).ids != 4).any():  # one world of the second position never hears anything
        forest.tell(rows.ids[heard], *evaluator.batch(rows.observations[heard]))
    assert forest.search().tolist() == [0]
    assert done(forest) == [4, 4, 4, 4, 0, 4]


def test_temperature_goes_by_age_and_draws_by_ply():
    game, kinds = HIDDEN["match3"], {}
    for age in (4, 3):
        forest = Forest(game, 40, rules(worlds=2, simulations=20, temperature="0:1,4:0"))
        roots = roots_of(40, key=[derive(np.uint64(1), k) for k in range(40)], ply=12, age=age, target=20)
        forest.set_roots(roots, np.concatenate([start(game, 5)] * 40))
        run(forest, HashEvaluator(game))
        pairs = [dict(visits_of(forest, p)) for p in range(40)]
        kinds[age] = {p[a] == max(p.values()) for p, a in zip(pairs, most_visited(forest, 40), strict=True)}
    assert kinds == {4: {True}, 3: {True, False}}


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(SettingError, match=r"worlds is 2, but nothing is hidden in connect_four.*--worlds 1"):
        check_worlds(GAMES["connect_four"], SearchSettings(worlds=2))
    with pytest.raises(SettingError, match=r"reuse is True, but .* fresh worlds.*--reuse"):
        check_worlds(HIDDEN["blob3"], SearchSettings(reuse=True))
    for make in (forest_capacity, Forest):
        with pytest.raises(SettingError, match="worlds"):
            make(GAMES["hex4"], 1, SearchSettings(worlds=2))
        with pytest.raises(SettingError, match="reuse"):
            make(HIDDEN["blob3"], 1, SearchSettings(reuse=True))
    for worlds in (0, 1025):
        with pytest.raises(SettingError, match="--worlds"):
            SearchSettings(worlds=worlds)
    with pytest.raises(SettingError, match=r"simulations is 100, but 51 worlds .* need 101.*--worlds"):
        SearchSettings(worlds=51, simulations_per="decision")
    SearchSettings(worlds=51, simulations=101, simulations_per="decision")
    SearchSettings(worlds=51)
