"""The choice of moves, the noise at the root, the random generator behind both, and refused settings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grove.common.errors import SettingError
from grove.common.rng import below, derive, mix, uniform
from grove.mcts import SearchSettings
from grove.mcts.forest import temperature_table
from grove.mcts.kernels.layout import tree_dtype
from grove.mcts.kernels.moves import choose
from grove.mcts.settings import temperature_steps
from tests.support.positions import GAMES, random_position, start
from tests.support.search_tools import HashEvaluator, forest_tree, rooted, run, search_settings, visits_of

KEYS = 20_000
VISITS = [(0, 10), (2, 40), (3, 40), (6, 10)]


def moves_drawn(schedule: str, ply: int, visits: list[tuple[int, int]], keys: int = KEYS) -> np.ndarray:
    """Return the moves that games with keys 0, 1, ... play at `ply` after these visits."""
    trees, out = np.zeros(keys, tree_dtype(2)), np.zeros(keys, np.int32)
    trees["key"] = [derive(np.uint64(1), k) for k in range(keys)]
    trees["ply"] = trees["age"] = ply
    offsets = np.arange(keys + 1, dtype=np.int64) * len(visits)
    pairs = np.array(visits * keys, np.int32)
    choose(trees, np.arange(keys, dtype=np.int32), offsets, pairs, temperature_table(schedule), out)
    return out


def shares(moves: np.ndarray) -> np.ndarray:
    return np.bincount(moves, minlength=7) / len(moves)


@pytest.mark.parametrize(
    ("temperature", "visits", "move"),
    [
        ("0", VISITS, 2),
        *(("0", [(1, 3), (4, 3), (5, 3)], 1), ("0", [(1, 3), (4, 3), (5, 4)], 5)),
        *((tiny, [(0, 1), (3, 99), (4, 100)], 4) for tiny in ("0.001", "1e-300")),
        ("1", [(4, 1)], 4),
    ],
)
def test_where_one_move_is_certain(temperature, visits, move):
    assert set(moves_drawn(f"0:{temperature}", 5, visits, 300).tolist()) == {move}


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1.0, 2.0, 50.0])
def test_moves_are_drawn_from_visits_to_the_inverse_temperature(temperature):
    expected = np.zeros(7)
    for action, visits in VISITS:
        expected[action] = visits ** (1 / temperature)
    expected /= expected.sum()
    drawn = shares(moves_drawn(f"0:{temperature}", 0, VISITS))
    assert np.abs(drawn - expected).max() < 5 * 0.5 / math.sqrt(KEYS)
    assert not drawn[expected == 0].any()


def test_schedule_changes_at_its_moves_and_its_last_step_holds():
    schedule, visits = "0:1,3:0,5:99", [(0, 1), (1, 2), (2, 1)]
    kinds = [len(set(moves_drawn(schedule, ply, visits, 300).tolist())) for ply in range(8)]
    assert kinds == [3, 3, 3, 1, 1, 3, 3, 3]
    assert np.abs(shares(moves_drawn(schedule, 1000, visits))[:3] - 1 / 3).max() < 0.02
    assert set(moves_drawn("0:1,1:0", 10**6, visits, 100).tolist()) == {1}


def test_moves_depend_on_key_and_ply_alone():
    first = moves_drawn("0:1", 4, VISITS, 1000)
    assert (moves_drawn("0:1", 4, VISITS, 2000)[:1000] == first).all()
    agree = (first == moves_drawn("0:1", 5, VISITS, 1000)).mean()
    assert abs(agree - (0.1**2 + 0.4**2) * 2) < 0.08  # as often as two independent draws


def test_root_visits_and_values_add_up():
    game = GAMES["hex5"]
    forest = rooted("hex5", search_settings(simulations=123), [(start(game), 0)] * 3, np.arange(3, dtype=np.uint64))
    run(forest, HashEvaluator(game, 1))
    for p in (2, 0):
        assert sum(count for _, count in visits_of(forest, p)) == 123
        assert all(count > 0 for _, count in visits_of(forest, p))
        assert visits_of(forest, p) == sorted(visits_of(forest, p))
    values = forest.root_values(np.array([2, 0], np.int32))
    assert np.allclose(values[:, 0], -values[:, 1])
    assert (np.abs(values) <= 1).all()


# -- noise -----------------------------------------------------------------------------------------------------------


def root_priors(alpha: float, fraction: float, trees: int, ply: int = 3) -> np.ndarray:
    """Return the root priors float64 [trees, 7] of one position in games of their own."""
    position = random_position(GAMES["connect_four"], np.random.default_rng(5), 3)[0]
    rules = search_settings(simulations=1, noise_fraction=fraction, noise_alpha=alpha)
    keys = np.array([derive(np.uint64(3), k) for k in range(trees)])
    forest = rooted("connect_four", rules, [(position, ply)] * trees, keys)
    run(forest, HashEvaluator(forest.game), asks=1)
    return np.array([[forest_tree(forest, t)[(action,)][0] for action in range(7)] for t in range(trees)])


@pytest.mark.parametrize("alpha", [0.03, 0.3, 1.0, 0.0])
def test_noise_is_dirichlet(alpha):
    """Every component of Dirichlet(a, ..., a) has mean 1 / n and variance (1 / n)(1 - 1 / n) / (n a + 1)."""
    noise = root_priors(alpha, 1.0, 4000)
    n, concentration = 7, alpha or 10 / 7
    variance = (1 / n) * (1 - 1 / n) / (n * concentration + 1)
    assert np.abs(noise.sum(1) - 1).max() < 1e-6
    assert np.abs(noise.mean(0) - 1 / n).max() < 5 * math.sqrt(variance / 4000)
    assert np.abs(noise.var(0) / variance - 1).max() < 0.25
    covariance = np.cov(noise.T)[~np.eye(n, dtype=bool)]
    assert abs(covariance.mean() / (-variance / (n - 1)) - 1) < 0.1


def test_noise_is_mixed_in_by_its_fraction_anew_at_every_ply():
    prior, full, mixed = (root_priors(0.3, fraction, 50) for fraction in (0.0, 1.0, 0.25))
    assert np.allclose(mixed, 0.75 * prior + 0.25 * full, atol=1e-6)
    assert len({row.tobytes() for row in mixed}) == 50  # every game its own
    assert (mixed != root_priors(0.3, 0.25, 50, ply=4)).any()


# -- the generator ---------------------------------------------------------------------------------------------------


def stream(seed: int, index: int) -> np.uint64:
    """Return a key; kernels hand uint64 back as Python integers, which they do not take."""
    return np.uint64(derive(np.uint64(seed), index))


def test_mix_is_splitmix64():
    # The reference generator seeded with 0 and with 1234567.
    first = [int(derive(np.uint64(0), i)) for i in range(3)]
    assert first == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert int(derive(np.uint64(1234567), 0)) == 6457827717110365317
    assert int(mix(np.uint64(0))) == 0


def test_uniform_bits_are_fair():
    n, key = 20_000, stream(77, 1)
    draws = np.array([uniform(key, k) for k in range(n)])
    assert 0 <= draws.min() <= draws.max() < 1
    bits = (draws[:, None] * 2.0 ** np.arange(1, 31)).astype(np.int64) & 1
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(n)
    cells = np.bincount((draws * 64).astype(int), minlength=64)
    assert ((cells - n / 64) ** 2 / (n / 64)).sum() < 63 + 5 * math.sqrt(126)  # chi-squared
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.04
    keys = np.array([uniform(stream(77, k), 0) for k in range(n)])
    assert abs(np.corrcoef(draws, keys)[0, 1]) < 0.04


def test_below_stays_below():
    draws = np.array([below(np.uint64(9), k, 7) for k in range(7000)])
    assert set(draws.tolist()) == set(range(7))
    assert np.abs(np.bincount(draws) - 1000).max() < 150


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("simulations", value) for value in (0, -5, 1_000_001)),
        *(("c_puct", -0.1), ("c_puct", math.nan), ("c_puct_base", 0.0), ("fpu_reduction", math.inf)),
        *(("noise_fraction", 1.1), ("noise_fraction", -0.1), ("noise_alpha", -1.0)),
        *(("leaves", 0), ("leaves", 257), ("virtual_loss", -1.0)),
        *(("cache", -1), ("max_moves", -1), ("timeout_utility", 1.5)),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(SettingError, match=name.replace("_", ".")) as error:
        SearchSettings(**{name: value})
    assert f"--{name.replace('_', '-')}" in str(error.value)


@pytest.mark.parametrize(
    "schedule", ["", "1", "1:1", "0:1,0:2", "0:1,5:0,3:1", "0:-1", "0:x", "0:1,", "0:nan", "0:inf", "-1:1", "0:100"]
)
def test_schedules_that_make_no_sense_are_refused(schedule):
    with pytest.raises(SettingError, match="temperature"):
        SearchSettings(temperature=schedule)


def test_schedules_read_as_steps():
    assert temperature_steps("0:1,30:0") == [(0, 1.0), (30, 0.0)]
    assert temperature_steps("0:0.5") == [(0, 0.5)]
