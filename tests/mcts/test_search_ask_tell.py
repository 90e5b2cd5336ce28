"""What a forest asks, and that answers may come in any order, late, twice or never."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.mcts import NONE, Forest, make_cache
from grove.mcts.settings import SearchSettings
from tests.support.search_tools import (
    GAMES,
    HashEvaluator,
    forest_tree,
    observation,
    ragged,
    random_position,
    run,
    run_untidily,
    search_settings,
    set_all_roots,
)

quick = settings(deadline=None, derandomize=True, database=None)


def rooted(name: str, trees: int, rules: SearchSettings, seed: int, same: bool = False) -> Forest:
    """Return a forest with random positions as roots (`same`: two positions take turns)."""
    game, rng = GAMES[name], np.random.default_rng(seed)
    forest = Forest(game, trees, rules, make_cache(game, rules))
    plies = rng.integers(0, max(1, game.max_moves // 2), trees)
    positions = [random_position(game, rng, int(n)) for n in plies]
    if same:
        positions = (positions[:2] * trees)[:trees]
    set_all_roots(forest, positions, rng.integers(0, 1 << 63, trees, np.uint64))
    return forest


def evaluator_of(forest: Forest) -> HashEvaluator:
    return HashEvaluator(forest.game, forest.game.num_players)


def run_some(forest: Forest, asks: int) -> None:
    evaluator = evaluator_of(forest)
    for _ in range(asks):
        rows = forest.ask()
        forest.tell(rows.ids, *evaluator.batch(rows.observations))


def all_trees(forest: Forest) -> list:
    return [forest_tree(forest, t) for t in range(len(forest._trees))]


def standing(forest: Forest) -> list:
    """Return trees, nodes and edges as bytes, except for the order in memory of edges that were never visited."""
    out = [forest._trees.tobytes()]
    for t, tree in enumerate(forest._trees):
        first = t * forest.capacity.nodes
        for node in forest._nodes[first : first + tree["nodes"]]:
            start, stop = int(node["first_edge"]), int(node["first_edge"] + node["edges"])
            middle = start + int(node["visited"])
            rest = forest._legal[middle:stop]
            visited = forest._edges[start:middle].tobytes() + forest._legal[start:middle].tobytes()
            by_action = [(int(e["action"]), float(e["prior"])) for e in rest]
            out.append((node.tobytes(), visited, rest["action"][:1].tolist(), sorted(by_action)))
    return out


def everything(forest: Forest) -> list[bytes]:
    arrays = (forest._trees, forest._nodes, forest._edges, forest._legal, forest._states, forest._pending.leaves)
    return [a.tobytes() for a in arrays]


# -- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [1, 4])
@pytest.mark.parametrize("cache", [0, 100])
def test_root_is_asked_alone_before_any_descent(leaves, cache):
    game = GAMES["connect_four"]
    rules = search_settings(leaves=leaves, virtual_loss=1.0, cache=cache)
    forest, rng = Forest(game, 5, rules, make_cache(game, rules)), np.random.default_rng(3)
    positions = [random_position(game, rng, 8 + t) for t in range(5)]
    set_all_roots(forest, positions, np.arange(5, dtype=np.uint64))
    rows = forest.ask()
    assert (rows.observations == [observation(game, state) for state, _ in positions]).all()
    assert len(forest.ask().ids) == 0
    assert forest._trees["nodes"].tolist() == [0] * 5
    run_again = forest.waiting()
    forest.tell(run_again, *evaluator_of(forest).batch(np.array([observation(game, s) for s, _ in positions])))
    rows = forest.ask()
    plies = forest._pending.leaves["ply"][rows.ids] - np.array([positions[i // leaves][1] for i in rows.ids])
    assert (plies >= 1).all()
    assert forest._trees["nodes"].min() >= 1


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("cache", [0, 100])
def test_rows_describe_the_asked_positions(name, cache):
    game = GAMES[name]
    forest = rooted(name, 6, search_settings(leaves=3, cache=cache), 5)
    evaluator = evaluator_of(forest)
    while len((rows := forest.ask()).ids):
        assert rows.ids.dtype == np.int32
        assert rows.observations.dtype == game.observation_dtype
        assert rows.slot == 0
        states, n = rows.states(), len(rows.ids)
        assert (rows.observations == [observation(game, states[i : i + 1]) for i in range(n)]).all()
        offsets, actions = np.zeros(n + 1, np.int64), np.zeros(n * game.max_legal, np.int32)
        game.legal(states, offsets, actions)
        assert rows.legal()[0].tolist() == offsets.tolist()
        assert rows.legal()[1].tolist() == actions[: offsets[-1]].tolist()
        done = np.zeros(n, bool)
        game.outcome(states, done, np.zeros((n, game.num_players)))
        assert not done.any()
        forest.tell(rows.ids, *evaluator.batch(rows.observations))


def test_a_tree_that_waits_is_left_alone():
    forest = rooted("hex5", 4, search_settings(), 1)
    run_some(forest, 10)
    rows = forest.ask()
    before = everything(forest)
    assert len(rows.ids) == 4
    assert len(forest.ask().ids) == 0
    assert len(forest.search()) == 0
    assert everything(forest) == before


# -- any subset, any order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["connect_four", "hex4", "ring"])
@settings(quick, max_examples=15)
@given(
    st.integers(1, 60),
    st.sampled_from([0, 4, 500]),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_order_subsets_and_drops_change_nothing(name, simulations, cache, drops, same, seed):
    rules = SearchSettings(simulations=simulations, cache=cache)
    tidy, untidy = rooted(name, 5, rules, seed, same), rooted(name, 5, rules, seed, same)
    run(tidy, evaluator_of(tidy))
    run_untidily(untidy, evaluator_of(untidy), np.random.default_rng(seed), drops)
    assert all_trees(untidy) == all_trees(tidy)
    assert untidy.search().tolist() == [0, 1, 2, 3, 4]


def test_telling_nothing_changes_nothing():
    forest = rooted("connect_four", 3, search_settings(cache=100), 1)
    run_some(forest, 10)
    forest.ask()
    before = everything(forest)
    forest.tell(np.zeros(0, np.int32), np.zeros((0, 7), np.float32), np.zeros((0, 2), np.float32))
    forest.tell(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros((0, 2), np.float32))
    forest.drop(np.zeros(0, np.int32))
    assert everything(forest) == before


# -- drop ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [1, 2, 7])
@pytest.mark.parametrize("asks", [0, 1, 2, 5, 11])
@pytest.mark.parametrize("seed", range(3))
def test_drop_leaves_trees_as_before_their_ask(leaves, asks, seed):
    # Too few simulations for terminal leaves, which an ask settles for good.
    forest = rooted("hex7", 4, search_settings(leaves=leaves), seed)
    rng = np.random.default_rng(seed)
    run_some(forest, asks)
    before = standing(forest)
    first = forest.ask().observations.copy()
    waiting = rng.permutation(forest.waiting())
    for part in np.array_split(waiting, 3):
        forest.drop(part)
    assert standing(forest) == before
    assert len(forest.waiting()) == 0
    assert (forest.ask().observations == first).all()


@pytest.mark.parametrize("leaves", [1, 4])
@pytest.mark.parametrize("name", ["connect_four", "hex3", "ring"])
def test_dropping_whole_asks_changes_no_result(name, leaves):
    rules = search_settings(leaves=leaves, simulations=80)
    plain, shaken = rooted(name, 4, rules, 6), rooted(name, 4, rules, 6)
    evaluator = evaluator_of(plain)
    run(plain, evaluator)
    while len((rows := shaken.ask()).ids):
        shaken.drop(rows.ids[::-1].copy())
        rows = shaken.ask()
        shaken.tell(rows.ids, *evaluator.batch(rows.observations))
    assert (shaken._trees["simulations"] == 80).all()
    if leaves == 1:
        assert all_trees(shaken) == all_trees(plain)


@pytest.mark.parametrize("cache", [0, 4, 1000])
def test_drop_before_the_ask_takes_rows_back(cache):
    rules = search_settings(simulations=40, cache=cache)
    plain, shaken = rooted("hex4", 6, rules, 2, same=True), rooted("hex4", 6, rules, 2, same=True)
    evaluator = evaluator_of(plain)
    run(plain, evaluator)
    rng = np.random.default_rng(0)
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


def test_dropping_a_row_drops_those_merged_with_it():
    forest = rooted("connect_four", 5, search_settings(cache=100), 4, same=True)
    rows = forest.ask()
    assert len(rows.ids) == 2
    assert forest._trees["pending"].tolist() == [1] * 5
    forest.drop(rows.ids)
    assert forest._trees["pending"].tolist() == [0] * 5
    assert len(forest.ask().ids) == 2


# -- answers nobody waits for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [0, 100])
@pytest.mark.parametrize("leaves", [1, 3])
def test_ids_that_wait_for_nothing_are_refused(cache, leaves):
    forest = rooted("connect_four", 4, search_settings(cache=cache, leaves=leaves), 4, same=True)
    evaluator = evaluator_of(forest)
    run_some(forest, 4)
    rows = forest.ask()
    ids, seen = rows.ids.copy(), rows.observations.copy()
    told = ids[0]
    forest.tell(ids[:1], *evaluator.batch(seen[:1]))
    followers = np.setdiff1d(np.flatnonzero(forest._pending.leaves["state"]), ids).tolist()
    assert bool(followers) == (cache > 0)
    wrong = [told, -1, NONE - 5, 4 * leaves, 10**6, *followers]
    if len(ids) > 1:
        assert ids[1] in forest.waiting()
        wrong.append(ids[1])  # named twice
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
    assert (forest._trees["simulations"] == 100).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["logits", "ragged", "values"])
@pytest.mark.parametrize("cache", [0, 100])
def test_answers_that_are_not_finite_are_refused(bad, where, cache):
    forest = rooted("hex4", 4, search_settings(cache=cache), 4, same=True)
    evaluator = evaluator_of(forest)
    run_some(forest, 4)
    rows = forest.ask()
    logits, values = evaluator.batch(rows.observations)
    legal = rows.legal()
    before = everything(forest)
    broken = {"logits": logits.copy(), "ragged": ragged(logits, legal), "values": values.copy()}
    if where == "logits":
        broken["logits"][-1, legal[1][-1]] = bad
    else:
        broken[where].reshape(-1)[-1] = bad
    with pytest.raises(ValueError, match=f"row {rows.ids[-1]} is not finite"):
        forest.tell(rows.ids, broken["ragged" if where == "ragged" else "logits"], broken["values"])
    assert everything(forest) == before
    illegal = np.setdiff1d(np.arange(16), legal[1][legal[0][0] : legal[0][1]])
    logits[0, illegal] = bad  # what belongs to no legal move is not looked at
    forest.tell(rows.ids, logits, values)
    run(forest, evaluator)
    assert (forest._trees["simulations"] == 100).all()


# -- what the room needs ---------------------------------------------------------------------------------------------


def test_search_needs_no_network_and_no_socket():
    code = (
        "import sys, mcts; "
        "bad = {'torch', 'zmq', 'msgpack', 'grove.inference_server', 'grove.workers'} & set(sys.modules); "
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
