"""Hidden information: worlds drawn at each decision, a tree for each, visits added up, the true state never seen."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.common.errors import SettingError
from grove.common.rng import derive
from grove.game import check
from grove.mcts import Forest, SearchSettings, check_worlds, forest_capacity, make_cache
from grove.mcts.worlds import shares
from tests.support.naive import legal_actions
from tests.support.search_tools import (
    GAMES,
    HashEvaluator,
    assert_within,
    forest_tree,
    played,
    result,
    roots_of,
    run,
    search_settings,
    set_all_roots,
    start,
)
from tests.support.world_tools import HIDDEN, searched, some_positions, visited, visits_of, world_states

quick = settings(deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("name", ["hands3", "hands5"])
def test_the_test_game_keeps_the_contract(name):
    check(HIDDEN[name], games=20)


# -- worlds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HIDDEN)
def test_roots_are_worlds_and_never_the_true_state(name):
    positions, keys = some_positions(name, 20, 2)
    forest = searched(name, {"worlds": 3, "simulations": 3}, positions, keys)
    game, alike = HIDDEN[name], 0
    for p, (state, _) in enumerate(positions):
        for raw in world_states(forest, p):
            world = np.frombuffer(raw, game.state_dtype).copy()
            rows = np.zeros((2, *game.observation_shape), game.observation_dtype)
            game.observe(np.concatenate([state, world]), rows)
            assert (rows[0] == rows[1]).all()
            alike += raw == state.tobytes()
    assert alike < 20  # by chance alone, where little is hidden


@pytest.mark.parametrize("name", HIDDEN)
def test_worlds_are_fresh_at_each_decision(name):
    game, keys = HIDDEN[name], np.arange(20, dtype=np.uint64)
    same = [start(game, 3)] * 20
    rules = {"worlds": 4, "simulations": 1}
    first = searched(name, rules, [(state, 0) for state in same], keys)
    later = searched(name, rules, [(state, 1) for state in same], keys)
    for p in range(20):
        here, there = world_states(first, p), world_states(later, p)
        assert len(set(here)) > 1  # the worlds of a decision differ
        assert here != there
    assert len({tuple(world_states(first, p)) for p in range(20)}) == 20  # and so do those of other games
    again = searched(name, rules, [(state, 0) for state in same], keys)
    assert [world_states(again, p) for p in range(20)] == [world_states(first, p) for p in range(20)]


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("worlds", [1, 3])
def test_hidden_cards_never_change_a_decision(name, worlds):
    """The true state gives way to others that the mover cannot tell apart: same worlds, same trees, same move."""
    game = HIDDEN[name]
    positions, keys = some_positions(name, 12, 9)
    rules = {"worlds": worlds, "simulations": 25, "noise_fraction": 0.25, "temperature": "0:1"}
    forest, which = searched(name, rules, positions, keys), np.arange(12, dtype=np.int32)
    moves, changed = forest.choose(which, forest.root_visits(which)).tolist(), 0
    for seed in range(3):
        others = []
        for state, ply in positions:
            other = np.zeros(1, game.state_dtype)
            game.determinize(state, np.array([seed], np.uint64), other)
            changed += other.tobytes() != state.tobytes()
            others.append((other, ply))
        second = searched(name, rules, others, keys)
        assert second.choose(which, second.root_visits(which)).tolist() == moves
        for tree in range(12 * worlds):
            assert forest_tree(second, tree) == forest_tree(forest, tree)
    assert changed > 12


def test_noise_is_drawn_for_each_world():
    game = HIDDEN["hands3"]
    state = start(game, 1)
    for fraction, kinds in ((0.0, 1), (1.0, 8)):  # without noise, the worlds look alike to the network
        rules = {"worlds": 8, "simulations": 1, "noise_fraction": fraction}
        forest = searched("hands3", rules, [(state, 0)], np.ones(1, np.uint64))
        assert len({root_priors(forest, tree) for tree in range(8)}) == kinds


def root_priors(forest: Forest, tree: int) -> tuple[float, ...]:
    return tuple(value[0] for path, value in sorted(forest_tree(forest, tree).items()) if len(path) == 1)


def test_the_roots_of_one_decision_cost_one_evaluation_with_a_cache():
    game, rules = HIDDEN["blob3"], search_settings(worlds=16, simulations=10, cache=1000)
    forest = Forest(game, 1, rules, make_cache(game, rules))
    set_all_roots(forest, [(start(game, 1), 0)], np.ones(1, np.uint64))
    assert len(forest.ask().ids) == 1
    bare = Forest(game, 1, search_settings(worlds=16, simulations=10))
    set_all_roots(bare, [(start(game, 1), 0)], np.ones(1, np.uint64))
    assert len(bare.ask().ids) == 16


# -- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("worlds", [1, 2, 5])
@pytest.mark.parametrize("leaves", [1, 8])
def test_visits_add_up(name, worlds, leaves):
    positions, keys = some_positions(name, 3, 3)
    forest = searched(name, {"worlds": worlds, "simulations": 40, "leaves": leaves}, positions, keys)
    shared = searched(
        name, {"worlds": worlds, "simulations": 40, "leaves": leaves, "simulations_per": "decision"}, positions, keys
    )
    which = np.arange(3, dtype=np.int32)
    for p in range(3):
        assert visited(forest, p)[:, 1].sum() == 40 * worlds
        assert visited(shared, p)[:, 1].sum() == 41 - worlds
        assert (np.diff(visited(forest, p)[:, 0]) > 0).all()
        legal = legal_actions(HIDDEN[name], positions[p][0])
        assert set(visited(forest, p)[:, 0].tolist()) <= set(legal)
    shared.choose(which, shared.root_visits(which))
    assert shared.simulations == 3 * (41 - worlds)
    # A root each: 41 evaluations over five worlds are 9, 8, 8, 8, 8.
    split = [41 // worlds - 1 + (w < 41 % worlds) for w in range(worlds)]
    assert shared._trees["simulations"].tolist() == split * 3


@quick
@given(st.integers(1, 50), st.integers(0, 500))
def test_shares_differ_by_one_at_most_and_keep_the_evaluations(worlds, more):
    simulations = 2 * worlds - 1 + more
    rules = SearchSettings(simulations=simulations, worlds=worlds, simulations_per="decision")
    split = shares(rules, np.array([simulations, 0], np.int32))
    assert (split[0] + 1).sum() == simulations + 1
    assert split[0].min() >= 1
    assert split[0].max() - split[0].min() <= 1
    assert (np.diff(split[0]) <= 0).all()  # the first worlds get the rest
    assert split[1].tolist() == [0] * worlds
    if worlds > 1:
        with pytest.raises(ValueError, match="cannot share"):
            shares(rules, np.array([2 * worlds - 2], np.int32))


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("worlds", [1, 3])
@pytest.mark.parametrize("simulations", [2, 7, 30])
def test_all_simulations_asked_at_once_are_distinct(name, worlds, simulations):
    """The old failure: leaves collected before the root was expanded were all the root, and visits came out uniform."""
    game = HIDDEN[name]
    rules = search_settings(simulations=simulations, leaves=32, worlds=worlds)
    forest, evaluator = Forest(game, 2, rules), HashEvaluator(game, game.num_players)
    set_all_roots(forest, [(start(game, 7), 0), (start(game, 8), 0)], np.arange(2, dtype=np.uint64))
    rows = forest.ask()
    assert len(rows.ids) == 2 * worlds  # the roots, alone
    forest.tell(rows.ids, *evaluator.batch(rows.observations))
    rows = forest.ask()
    roots = {raw for p in range(2) for raw in world_states(forest, p)}
    asked = {(i // 32, state.tobytes()) for i, state in zip(rows.ids.tolist(), rows.states(), strict=True)}
    assert len(asked) == len(rows.ids)
    assert not {raw for _, raw in asked} & roots
    forest.tell(rows.ids, *evaluator.batch(rows.observations))
    run(forest, evaluator)
    for p in range(2):
        assert visited(forest, p)[:, 1].sum() == worlds * simulations
    for tree in range(2 * worlds):
        seen = [value for path, value in forest_tree(forest, tree).items() if path and value[1] > 0]
        ended = sum(value[1] - 1 for value in seen if value[4])
        assert len(seen) + ended == simulations  # every simulation made a node or ended the game once more


@pytest.mark.parametrize("name", ["hands3", "hands5", "blob3", "blob5"])
@pytest.mark.parametrize("changes", [{}, {"leaves": 50}, {"worlds": 4}, {"worlds": 4, "leaves": 50}])
def test_a_decision_evaluates_distinct_states_and_prefers_some_moves(name, changes):
    game, rules = HIDDEN[name], {"simulations": 50} | changes
    worlds = rules.get("worlds", 1)
    forest = searched(name, rules, [(start(game, seed), 0) for seed in range(6)], np.arange(6, dtype=np.uint64))
    uneven = 0
    for p in range(6):
        states = forest.evaluated_states(p)
        per_world = [
            len(np.unique(forest._states[t * forest.capacity.nodes :][: forest._trees["nodes"][t]], axis=0))
            for t in range(p * worlds, (p + 1) * worlds)
        ]
        assert len(states) > 25 * worlds
        assert per_world == forest._trees["nodes"][p * worlds : (p + 1) * worlds].tolist()  # no state twice in a world
        counts = visited(forest, p)[:, 1]
        assert len(legal_actions(game, start(game, p))) > 2
        uneven += int(counts.max() - counts.min()) > worlds  # more than where all are as equal as can be
    assert uneven >= 4


# -- rest, age -------------------------------------------------------------------------------------------------------


def test_a_position_at_rest_takes_no_state_and_asks_nothing():
    game = HIDDEN["hands3"]
    forest = Forest(game, 3, search_settings(worlds=2, simulations=5))
    over = start(game, 1)
    while result(game, over) is None:
        over = played(game, over, legal_actions(game, over)[0])
    roots = roots_of(3, target=[5, 0, 5])
    forest.set_roots(roots, np.concatenate([start(game, 0), over, start(game, 2)]))
    assert not any(any(raw) for raw in world_states(forest, 1))
    assert len(forest.ask().ids) == 4
    assert run(forest, HashEvaluator(game, 3)) == 0  # these four wait still
    rows = forest.waiting()
    logits, values = HashEvaluator(game, 3).batch(np.zeros((4, *game.observation_shape), game.observation_dtype))
    forest.tell(rows, logits, values)
    run(forest, HashEvaluator(game, 3))
    assert forest.search().tolist() == [0, 2]
    forest.set_roots(roots_of(3, target=0), np.concatenate([over] * 3))
    assert forest.search().tolist() == []
    assert len(forest.ask().ids) == 0


def test_a_position_is_decided_when_all_its_worlds_are():
    game = HIDDEN["hands3"]
    forest, evaluator = Forest(game, 2, search_settings(worlds=3, simulations=4)), HashEvaluator(game, 3)
    set_all_roots(forest, [(start(game, 0), 0), (start(game, 1), 0)], np.arange(2, dtype=np.uint64))
    for _ in range(200):
        rows = forest.ask()
        keep = rows.ids[rows.ids != 4]  # the middle world of the second position never hears anything
        observations = rows.observations[rows.ids != 4]
        if not len(keep):
            break
        forest.tell(keep.copy(), *evaluator.batch(observations))
    assert forest.search().tolist() == [0]
    assert forest._trees["simulations"].tolist() == [4, 4, 4, 4, 0, 4]


def test_temperature_goes_by_age_and_draws_by_ply():
    game = HIDDEN["hands3"]
    rules = search_settings(worlds=2, simulations=20, temperature="0:1,4:0")
    most, drawn = set(), set()
    for age, out in ((4, most), (3, drawn)):
        forest = Forest(game, 40, rules)
        roots = roots_of(40, key=[derive(np.uint64(1), k) for k in range(40)], ply=12, age=age, target=20)
        forest.set_roots(roots, np.concatenate([start(game, 5)] * 40))
        run(forest, HashEvaluator(game, 3))
        which = np.arange(40, dtype=np.int32)
        visits = forest.root_visits(which)
        for p, action in enumerate(forest.choose(which, visits).tolist()):
            pairs = dict(visits_of(forest, p))
            out.add(pairs[action] == max(pairs.values()))
    assert most == {True}
    assert drawn == {True, False}


# -- settings and memory ---------------------------------------------------------------------------------------------


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(SettingError, match=r"worlds is 2, but nothing is hidden in connect_four.*--worlds 1"):
        check_worlds(GAMES["connect_four"], SearchSettings(worlds=2))
    with pytest.raises(SettingError, match=r"reuse is True, but .* fresh worlds.*--reuse"):
        check_worlds(HIDDEN["blob3"], SearchSettings(reuse=True))
    for worlds in (0, 1025):
        with pytest.raises(SettingError, match="--worlds"):
            SearchSettings(worlds=worlds)
    with pytest.raises(SettingError, match=r"simulations is 100, but 51 worlds .* need 101.*--worlds"):
        SearchSettings(worlds=51, simulations_per="decision")
    SearchSettings(worlds=51, simulations=101, simulations_per="decision")
    SearchSettings(worlds=51)


def test_forests_and_their_memory_are_refused_early():
    for make in (forest_capacity, Forest):
        with pytest.raises(SettingError, match="worlds"):
            make(GAMES["hex4"], 1, SearchSettings(worlds=2))
        with pytest.raises(SettingError, match="reuse"):
            make(HIDDEN["hands3"], 1, SearchSettings(reuse=True))
    with pytest.raises(SettingError, match="2\\*\\*31"):
        forest_capacity(HIDDEN["blob3"], 1000, SearchSettings(simulations=10_000, worlds=1024))
    forest = Forest(HIDDEN["hands3"], 1, search_settings(worlds=4, simulations=20, simulations_per="decision"))
    with pytest.raises(ValueError, match="room"):
        forest.set_roots(roots_of(1, target=21), start(HIDDEN["hands3"]))
    with pytest.raises(ValueError, match="cannot share"):
        forest.set_roots(roots_of(1, target=6), start(HIDDEN["hands3"]))


@pytest.mark.parametrize("name", ["hands5", "blob3"])
@pytest.mark.parametrize("worlds", [1, 6])
@pytest.mark.parametrize("per", ["world", "decision"])
def test_stated_bytes_are_allocated(name, worlds, per):
    game = HIDDEN[name]
    rules = search_settings(worlds=worlds, simulations=200, simulations_per=per)
    stated = forest_capacity(game, 16, rules)
    Forest(game, 16, rules)  # one-time costs
    tracemalloc.start()
    forest = Forest(game, 16, rules)
    allocated = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 * stated.total_bytes <= allocated <= 1.1 * stated.total_bytes + 16_384
    assert (forest.capacity, stated.trees) == (stated, 16 * worlds)
    assert stated.nodes == 2 + (200 if per == "world" or worlds == 1 else 33)  # 201 evaluations over six: 34 at most
    one = forest_capacity(game, 1, rules).total_bytes
    assert stated.total_bytes == 16 * one


@pytest.mark.parametrize("name", ["hands3", "blob5"])
def test_whole_games_stay_within_the_pools(name):
    game, rules = HIDDEN[name], SearchSettings(simulations=31, worlds=3, simulations_per="decision", leaves=2)
    forest, evaluator = Forest(game, 4, rules), HashEvaluator(game, game.num_players)
    which, states, plies = np.arange(4, dtype=np.int32), [start(game, s) for s in range(4)], [0] * 4
    for _ in range(12):
        set_all_roots(forest, list(zip(states, plies, strict=True)), np.arange(4, dtype=np.uint64))
        run(forest, evaluator)
        actions = forest.choose(which, forest.root_visits(which)).tolist()
        for p, action in enumerate(actions):
            after = played(game, states[p], action)
            over = result(game, after) is not None
            states[p], plies[p] = (start(game, 50 + p), 0) if over else (after, plies[p] + 1)
        assert_within(forest)
