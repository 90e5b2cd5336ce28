"""The choice of moves, the noise at the root, the random generator behind both, and refused settings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grove.common.errors import SettingError
from grove.common.rng import below, derive, gamma, mix, uniform
from grove.mcts import Forest, SearchSettings
from grove.mcts.kernels.moves import choose
from grove.mcts.settings import temperature_steps
from tests.support.search_tools import GAMES, HashEvaluator, random_position, run, search_settings, set_all_roots, start

KEYS = 20_000


def stream(seed: int, index: int) -> np.uint64:
    """Return a key; kernels hand uint64 back as Python integers, which they do not take."""
    return np.uint64(derive(np.uint64(seed), index))


def moves_drawn(schedule: str, ply: int, visits: list[tuple[int, int]], keys: int = KEYS) -> np.ndarray:
    """Return the moves that games with keys 0, 1, ... play at `ply` after these visits, through a forest."""
    forest = Forest(GAMES["connect_four"], keys, search_settings(simulations=1, temperature=schedule))
    forest._trees["key"] = [derive(np.uint64(1), k) for k in range(keys)]
    forest._trees["ply"] = forest._trees["age"] = ply
    pairs = np.array(visits * keys, np.int32)
    offsets = np.arange(keys + 1, dtype=np.int64) * len(visits)
    return forest.choose(np.arange(keys, dtype=np.int32), (offsets, pairs))


def shares(moves: np.ndarray) -> np.ndarray:
    return np.bincount(moves, minlength=7) / len(moves)


VISITS = [(0, 10), (2, 40), (3, 40), (6, 10)]


def test_temperature_0_plays_the_most_visited_and_ties_go_to_the_lowest():
    assert set(moves_drawn("0:0", 5, VISITS, 200).tolist()) == {2}
    assert set(moves_drawn("0:0", 5, [(1, 3), (4, 3), (5, 3)], 200).tolist()) == {1}
    assert set(moves_drawn("0:0", 5, [(1, 3), (4, 3), (5, 4)], 200).tolist()) == {5}


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1.0, 2.0, 50.0])
def test_moves_are_drawn_from_visits_to_the_inverse_temperature(temperature):
    expected = np.zeros(7)
    for action, visits in VISITS:
        expected[action] = visits ** (1 / temperature)
    expected /= expected.sum()
    drawn = shares(moves_drawn(f"0:{temperature}", 0, VISITS))
    assert np.abs(drawn - expected).max() < 5 * 0.5 / math.sqrt(KEYS)
    assert not drawn[expected == 0].any()


@pytest.mark.parametrize("temperature", ["0.001", "1e-300"])
def test_tiny_temperatures_do_not_overflow(temperature):
    assert set(moves_drawn(f"0:{temperature}", 0, [(0, 1), (3, 99), (4, 100)], 500).tolist()) == {4}


def test_schedule_changes_at_its_moves():
    schedule = "0:1,3:0,5:99"
    kinds = [len(set(moves_drawn(schedule, ply, [(0, 1), (1, 2), (2, 1)], 300).tolist())) for ply in range(8)]
    assert kinds == [3, 3, 3, 1, 1, 3, 3, 3]
    late = shares(moves_drawn(schedule, 1000, [(0, 1), (1, 2), (2, 1)]))
    assert np.abs(late[:3] - 1 / 3).max() < 0.02


def test_moves_depend_on_key_and_ply_alone():
    first = moves_drawn("0:1", 4, VISITS, 1000)
    assert (moves_drawn("0:1", 4, VISITS, 2000)[:1000] == first).all()
    other = moves_drawn("0:1", 5, VISITS, 1000)
    agree = (first == other).mean()
    assert abs(agree - (0.1**2 + 0.4**2) * 2) < 0.08  # as often as two independent draws


def test_one_move_is_no_choice():
    assert moves_drawn("0:1", 0, [(4, 1)], 3).tolist() == [4, 4, 4]


# -- noise -----------------------------------------------------------------------------------------------------------


def noisy_priors(alpha: float, fraction: float, trees: int, ply: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return the root priors float64 [trees, 7] with noise, and the common ones without."""
    game = GAMES["connect_four"]
    position = random_position(game, np.random.default_rng(5), 3)[0]
    forests = [
        Forest(game, n, search_settings(simulations=1, noise_fraction=f, noise_alpha=alpha))
        for n, f in ((trees, fraction), (1, 0.0))
    ]
    priors = []
    for forest in forests:
        n = len(forest._trees)
        set_all_roots(forest, [(position, ply)] * n, np.array([derive(np.uint64(3), k) for k in range(n)]))
        run(forest, HashEvaluator(game, 2))
        edges = forest._legal.reshape(n, -1)[:, :7]
        order = np.argsort(edges["action"], axis=1)
        priors.append(np.take_along_axis(edges["prior"].astype(np.float64), order, axis=1))
    return priors[0], priors[1][0]


@pytest.mark.parametrize("alpha", [0.03, 0.3, 1.0, 0.0])
def test_noise_is_dirichlet(alpha):
    """Every component of Dirichlet(a, ..., a) has mean 1 / n and variance (1 / n)(1 - 1 / n) / (n a + 1)."""
    noise, _ = noisy_priors(alpha, 1.0, 4000)
    n, concentration = 7, alpha or 10 / 7
    variance = (1 / n) * (1 - 1 / n) / (n * concentration + 1)
    assert np.abs(noise.sum(1) - 1).max() < 1e-6
    assert np.abs(noise.mean(0) - 1 / n).max() < 5 * math.sqrt(variance / 4000)
    assert np.abs(noise.var(0) / variance - 1).max() < 0.25
    covariance = np.cov(noise.T)[~np.eye(n, dtype=bool)]
    assert abs(covariance.mean() / (-variance / (n - 1)) - 1) < 0.1


def test_noise_is_mixed_in_by_its_fraction():
    full, prior = noisy_priors(0.3, 1.0, 50)
    mixed, _ = noisy_priors(0.3, 0.25, 50)
    assert np.allclose(mixed, 0.75 * prior + 0.25 * full, atol=1e-6)
    assert len({row.tobytes() for row in mixed}) == 50  # every game its own


def test_noise_changes_from_ply_to_ply():
    assert (noisy_priors(0.3, 0.25, 3, ply=3)[0] != noisy_priors(0.3, 0.25, 3, ply=4)[0]).any()


# -- the generator ---------------------------------------------------------------------------------------------------


def test_mix_is_splitmix64():
    # The reference generator seeded with 0 and with 1234567.
    assert [int(derive(np.uint64(0), i)) for i in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    assert int(derive(np.uint64(1234567), 0)) == 6457827717110365317
    assert int(mix(np.uint64(0))) == 0


@pytest.mark.parametrize("shape", [0.03, 0.3, 1.0, 1.43, 10.0])
def test_gamma_has_its_moments(shape):
    """Gamma(a, 1): mean a, variance a, third central moment 2 a."""
    n = 40_000
    draws = np.array([gamma(stream(11, k), shape) for k in range(n)])
    assert (draws >= 0).all()
    assert abs(draws.mean() - shape) < 5 * math.sqrt(shape / n)
    fourth = 3 * shape**2 + 6 * shape
    assert abs(draws.var() - shape) < 5 * math.sqrt((fourth - shape**2) / n)
    third = ((draws - draws.mean()) ** 3).mean()
    assert abs(third / (2 * shape) - 1) < 0.5


def test_uniform_bits_are_fair():
    n = 20_000
    key = stream(77, 1)
    draws = np.array([uniform(key, k) for k in range(n)])
    assert draws.min() >= 0
    assert draws.max() < 1
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
        ("simulations", 0),
        ("simulations", -5),
        ("simulations", 1_000_001),
        ("c_puct", -0.1),
        ("c_puct", math.nan),
        ("c_puct_base", 0.0),
        ("fpu_reduction", math.inf),
        ("noise_fraction", 1.1),
        ("noise_fraction", -0.1),
        ("noise_alpha", -1.0),
        ("leaves", 0),
        ("leaves", 257),
        ("virtual_loss", -1.0),
        ("cache", -1),
        ("max_moves", -1),
        ("timeout_utility", 1.5),
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


def test_choose_reads_the_last_entry_beyond_the_table():
    trees = np.zeros(1, Forest(GAMES["ring"], 1, search_settings())._trees.dtype)
    trees["age"] = 10**6
    out = np.zeros(1, np.int32)
    pairs = np.array([[4, 1], [8, 2]], np.int32)
    choose(trees, np.zeros(1, np.int32), np.array([0, 2]), pairs, np.array([1.0, 0.0]), out)
    assert out.tolist() == [8]


def test_root_visits_and_values_add_up():
    game = GAMES["hex5"]
    forest = Forest(game, 3, search_settings(simulations=123))
    set_all_roots(forest, [(start(game), 0)] * 3, np.arange(3, dtype=np.uint64))
    run(forest, HashEvaluator(game, 1))
    trees = np.array([2, 0], np.int32)
    offsets, pairs = forest.root_visits(trees)
    for i in range(2):
        mine = pairs[offsets[i] : offsets[i + 1]]
        assert mine[:, 1].sum() == 123
        assert (mine[:, 1] > 0).all()
        assert (np.diff(mine[:, 0]) > 0).all()
    values = forest.root_values(trees)
    assert np.allclose(values[:, 0], -values[:, 1])
    assert (np.abs(values) <= 1).all()
