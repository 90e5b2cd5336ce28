"""What a forest asks, and that answers may come in any order, late, twice or never; that its pools suffice."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.common.errors import SettingError
from grove.game.hex import Hex
from grove.mcts import NONE, Forest, SearchSettings, forest_capacity, make_cache
from tests.support.positions import ALL, GAMES, HIDDEN, observation, played, result, some_positions, start
from tests.support.search_tools import (
    HashEvaluator,
    all_trees,
    assert_within,
    done,
    everything,
    path_of,
    pending,
    ragged,
    rooted,
    roots_of,
    run,
    run_untidily,
    search_settings,
    set_all_roots,
    visits_of,
)

quick = settings(deadline=None, derandomize=True, database=None)


def somewhere(name: str, trees: int, rules: SearchSettings, seed: int, same: bool = False) -> Forest:
    """Return a forest with random positions (`same`: two positions take turns)."""
    positions, keys = some_positions(ALL[name], trees, seed)
    return rooted(name, rules, (positions[:2] * trees)[:trees] if same else positions, keys)


# -- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [1, 4])
@pytest.mark.parametrize("cache", [0, 100])
def test_root_is_asked_alone_before_any_descent(leaves, cache):
    game = GAMES["connect_four"]
    positions, keys = some_positions(game, 5, 3)
    forest = rooted("connect_four", search_settings(leaves=leaves, cache=cache), positions, keys)
    rows = forest.ask()
    assert (rows.observations == [observation(game, state) for state, _ in positions]).all()
    assert [path_of(forest, i) for i in rows.ids] == [()] * 5
    assert len(forest.ask().ids) == 0
    forest.tell(rows.ids, *HashEvaluator(game).batch(rows.observations))
    assert all(path_of(forest, i) for i in forest.ask().ids)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cache", [0, 100])
def test_rows_describe_the_asked_positions(name, cache):
    game = ALL[name]
    forest = somewhere(name, 6, search_settings(leaves=3, cache=cache, simulations=40), 5)
    evaluator = HashEvaluator(game)
    while len((rows := forest.ask()).ids):
        assert (rows.ids.dtype, rows.observations.dtype) == (np.int32, game.observation_dtype)
        states, n = rows.states(), len(rows.ids)
        assert (rows.observations == [observation(game, states[i : i + 1]) for i in range(n)]).all()
        offsets, actions = np.zeros(n + 1, np.int64), np.zeros(n * game.max_legal, np.int32)
        game.legal(states, offsets, actions)
        assert rows.legal()[0].tolist() == offsets.tolist()
        assert rows.legal()[1].tolist() == actions[: offsets[-1]].tolist()
        assert all(result(game, states[i : i + 1]) is None for i in range(n))
        forest.tell(rows.ids, *evaluator.batch(rows.observations))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cache", [0, 4, 1000])
def test_waiting_leaves_are_distinct(name, cache):
    """The failure this guards against: all leaves were the root, and the visits came out uniform."""
    forest = somewhere(name, 3, search_settings(simulations=60, leaves=16, cache=cache), 8)
    run(forest, HashEvaluator(forest.game), asks=1)
    while len((rows := forest.ask()).ids):
        waiting = [(i // 16, path_of(forest, i)) for i in rows.ids.tolist()]
        assert len(set(waiting)) == len(waiting)
        assert all(path for _, path in waiting)
        assert sum(pending(forest)) >= len(waiting)  # merged ones wait too
        forest.tell(rows.ids, *HashEvaluator(forest.game).batch(rows.observations))
    for tree in all_trees(forest):
        seen = [value for path, value in tree.items() if path and value[1] > 0]
        ended = sum(value[1] - 1 for value in seen if value[4])
        assert tree[()][0] == len(seen) + ended == 60  # every simulation made a node or ended the game once more


def test_a_tree_that_waits_is_left_alone():
    forest = somewhere("hex5", 4, search_settings(cache=100), 1)
    run(forest, HashEvaluator(forest.game), asks=10)
    assert len(forest.ask().ids) == 4
    before = everything(forest)
    assert len(forest.ask().ids) == len(forest.search()) == 0
    for logits in (np.zeros((0, 25), np.float32), np.zeros(0, np.float32)):  # telling nothing changes nothing
        forest.tell(np.zeros(0, np.int32), logits, np.zeros((0, 2), np.float32))
    forest.drop(np.zeros(0, np.int32))
    assert everything(forest) == before


# -- any subset, any order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["connect_four", "hex4", "ring", "blob3"])
@settings(quick, max_examples=15)
@given(
    st.integers(1, 60),
    st.sampled_from([1, 1, 5]),
    st.sampled_from([0, 4, 500]),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_order_subsets_and_drops_change_nothing(name, simulations, leaves, cache, drops, same, seed):
    rules = SearchSettings(simulations=simulations, leaves=leaves, cache=cache)
    tidy, untidy = somewhere(name, 5, rules, seed, same), somewhere(name, 5, rules, seed, same)
    run(tidy, HashEvaluator(tidy.game))
    run_untidily(untidy, HashEvaluator(tidy.game), np.random.default_rng(seed), drops)
    if leaves == 1:
        assert all_trees(untidy) == all_trees(tidy)
    assert untidy.search().tolist() == [0, 1, 2, 3, 4]
    assert done(untidy) == [simulations] * 5
    assert all(sum(count for _, count in visits_of(untidy, p)) == simulations for p in range(5))


@pytest.mark.parametrize("leaves", [1, 2, 7])
@pytest.mark.parametrize("asks", [0, 1, 2, 5, 11])
def test_drop_leaves_trees_as_before_their_ask(leaves, asks):
    # Too few simulations for terminal leaves, which an ask settles for good.
    forest = somewhere("hex7", 4, search_settings(leaves=leaves), asks)
    run(forest, HashEvaluator(forest.game), asks=asks)
    before = all_trees(forest) if asks else None
    first = forest.ask().observations.copy()
    for part in np.array_split(np.random.default_rng(asks).permutation(forest.waiting()), 3):
        forest.drop(part)
    assert not asks or all_trees(forest) == before
    assert pending(forest) == [0] * 4
    assert len(forest.waiting()) == 0
    assert (forest.ask().observations == first).all()


@pytest.mark.parametrize("cache", [0, 4, 1000])
@pytest.mark.parametrize("name", ["hex4", "ring"])
def test_drop_before_the_ask_takes_rows_back(name, cache):
    rules = search_settings(simulations=40, cache=cache)
    plain, shaken = (somewhere(name, 6, rules, 2, same=True) for _ in range(2))
    evaluator, rng = HashEvaluator(plain.game), np.random.default_rng(0)
    run(plain, evaluator)
    while True:
        shaken.search()  # finds rows that nobody has asked for yet
        waiting = shaken.waiting()
        shaken.drop(rng.permutation(waiting)[: rng.integers(0, len(waiting) + 1)])
        rows = shaken.ask()
        if len(rows.ids) == 0:
            break
        assert sorted(rows.ids.tolist()) == shaken.waiting().tolist()
        assert (rows.observations == [observation(shaken.game, s[None]) for s in rows.states()]).all()
        shaken.tell(rows.ids, *evaluator.batch(rows.observations))
    assert all_trees(shaken) == all_trees(plain)


# -- answers nobody waits for, and answers of no use -----------------------------------------------------------------


@pytest.mark.parametrize("cache", [0, 100])
@pytest.mark.parametrize("leaves", [1, 3])
def test_ids_that_wait_for_nothing_are_refused(cache, leaves):
    forest = somewhere("connect_four", 4, search_settings(cache=cache, leaves=leaves), 4, same=True)
    evaluator = HashEvaluator(forest.game)
    run(forest, evaluator, asks=4)
    rows = forest.ask()
    ids, seen = rows.ids.copy(), rows.observations.copy()
    assert (sum(pending(forest)) > len(ids)) == (cache > 0)
    forest.tell(ids[:1], *evaluator.batch(seen[:1]))
    merged = np.setdiff1d(np.arange(4 * leaves), [*ids, *forest.waiting()]).tolist()
    wrong = [ids[0], -1, NONE - 5, 4 * leaves, 10**6, *merged, *ids[1:2]]  # the last one is named twice
    before = everything(forest)
    for bad in wrong:
        some = np.array([*ids[1:], bad], np.int32)
        logits, values = evaluator.batch(np.zeros((len(some), *seen.shape[1:]), seen.dtype))
        with pytest.raises(ValueError, match=f"row {bad} waits for no answer"):
            forest.tell(some, logits, values)
        with pytest.raises(ValueError, match="waits for no answer"):
            forest.drop(some)
        assert everything(forest) == before
    forest.tell(ids[1:], *evaluator.batch(seen[1:]))
    run(forest, evaluator)
    assert done(forest) == [100] * 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["logits", "ragged", "values"])
@pytest.mark.parametrize("cache", [0, 100])
def test_answers_that_are_not_finite_are_refused(bad, where, cache):
    forest = somewhere("hex4", 4, search_settings(cache=cache), 4, same=True)
    evaluator = HashEvaluator(forest.game)
    run(forest, evaluator, asks=4)
    rows = forest.ask()
    logits, values = evaluator.batch(rows.observations)
    legal, before = rows.legal(), everything(forest)
    broken = {"logits": logits.copy(), "ragged": ragged(logits, legal), "values": values.copy()}
    if where == "logits":
        broken["logits"][-1, legal[1][-1]] = bad
    else:
        broken[where].reshape(-1)[-1] = bad
    with pytest.raises(ValueError, match=f"row {rows.ids[-1]} is not finite"):
        forest.tell(rows.ids, broken["ragged" if where == "ragged" else "logits"], broken["values"])
    assert everything(forest) == before
    logits[0, np.setdiff1d(np.arange(16), legal[1][: legal[0][1]])] = bad  # of no legal move: not looked at
    forest.tell(rows.ids, logits, values)
    run(forest, evaluator)
    assert done(forest) == [100] * 4


@pytest.mark.parametrize("name", ["stairs", "connect_four", "ring"])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_values_of_another_width_are_refused(name, width):
    game = GAMES[name]
    forest = rooted(name, search_settings(simulations=3), [(start(game), 0)], np.zeros(1, np.uint64))
    rows = forest.ask()
    logits, values = np.zeros((1, game.num_actions), np.float32), np.zeros((1, width), np.float32)
    if width != game.num_players and not (width == 1 and game.zero_sum):
        with pytest.raises(ValueError, match="logits and values must be"):
            forest.tell(rows.ids, logits, values)
        values = np.zeros((1, game.num_players), np.float32)
    with pytest.raises(ValueError, match="logits and values must be"):
        forest.tell(rows.ids, logits[:, 1:], values)
    forest.tell(rows.ids, logits, values)


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trees", [1, 64])
@pytest.mark.parametrize("name", ["connect_four", "hex3", "ring", "blob5"])
@pytest.mark.parametrize(
    "changes",
    [{"simulations": 100}, {"simulations": 30, "leaves": 8}, {"simulations": 800}],
)
def test_stated_bytes_are_allocated(name, trees, changes):
    rules = search_settings(**changes, worlds=6 if name == "blob5" else 1, simulations_per="decision")
    stated = forest_capacity(ALL[name], trees, rules)
    Forest(ALL[name], trees, rules)  # one-time costs
    tracemalloc.start()
    forest = Forest(ALL[name], trees, rules)
    allocated = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 * stated.total_bytes <= allocated <= 1.1 * stated.total_bytes + 16_384
    assert (forest.capacity, stated.trees) == (stated, trees * rules.worlds)


@pytest.mark.parametrize("name", ["connect_four", "hex2", "hex7", "ring", "blob5"])
@pytest.mark.parametrize("leaves", [1, 4])
@pytest.mark.parametrize("c_puct", [0.0, 1.25, 1000.0])
def test_whole_games_stay_within_the_pools(name, leaves, c_puct):
    """Reuse, cache and noise together, over whole games with trees as full as can be."""
    game, hidden = ALL[name], name in HIDDEN
    rules = SearchSettings(
        simulations=60, leaves=leaves, c_puct=c_puct, reuse=not hidden, worlds=3 if hidden else 1, cache=64
    )
    forest, which = Forest(game, 4, rules, make_cache(game, rules)), np.arange(4, dtype=np.int32)
    positions = [(start(game, t), 0) for t in range(4)]
    set_all_roots(forest, positions, np.arange(4, dtype=np.uint64))
    for _ in range(16):
        run(forest, HashEvaluator(game))
        assert forest.search().tolist() == which.tolist()
        assert all(sum(n for _, n in visits_of(forest, p)) >= 60 * rules.worlds for p in range(4))
        actions = forest.choose(which, forest.root_visits(which))
        for p, (state, ply) in enumerate(positions):
            after = played(game, state, int(actions[p]))
            over = result(game, after) is not None
            positions[p] = (start(game, p), 0) if over else (after, ply + 1)
            actions[p] = NONE if over else actions[p]
        plies = [ply for _, ply in positions]
        forest.set_roots(
            roots_of(4, key=which, ply=plies, target=60, action=actions), np.concatenate([s for s, _ in positions])
        )
        assert_within(forest)


def test_what_does_not_fit_is_refused():
    with pytest.raises(SettingError, match="2\\*\\*31"):
        forest_capacity(Hex(19), 1000, SearchSettings(simulations=100_000))
    with pytest.raises(SettingError, match="2\\*\\*31"):
        forest_capacity(HIDDEN["blob3"], 1000, SearchSettings(simulations=10_000, worlds=1024))
    forest = Forest(GAMES["connect_four"], 1, search_settings(simulations=10))
    with pytest.raises(ValueError, match="room for 10 simulations"):
        forest.set_roots(roots_of(1, target=11), start(forest.game))
