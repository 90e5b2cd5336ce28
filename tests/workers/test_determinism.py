"""The same seed gives the same games, move for move, however the work is spread."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.command import Grove

GAMES = 10
HASHED = ("selfplay", "--game", "hex:size=4", "--games", GAMES, "--simulations", 20, "--seed", 7, "--evaluator", "test")
SPREADS = [
    ("--pool", "thread", "--workers", 4, "--games-per-worker", 2, "--groups", 2),
    ("--pool", "process", "--workers", 1, "--games-per-worker", 1, "--groups", 1),
    ("--pool", "process", "--workers", 4, "--games-per-worker", 3, "--groups", 3),
    ("--pool", "process", "--workers", 4, "--games-per-worker", 7, "--cache", 3000),
    ("--pool", "thread", "--workers", 1, "--games-per-worker", 10, "--cache", 64),
]


def gist(grove: Grove, *flags: object) -> list[Any]:
    """Return the games of one run, without what may differ: times and places."""
    out = grove.folder / "-".join(str(flag).strip("-") for flag in flags[-6:]).replace("/", "")
    grove.play(*flags, "--out", out)
    records = grove.exactly(out, range(GAMES), str(flags[2]))
    return [(r.index, r.seed, r.moves, r.visits, r.values, r.models, r.utilities, r.status) for r in records]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    runner = Grove(tmp_path_factory.mktemp("reference"))
    flags = ("--pool", "thread", "--workers", 1, "--games-per-worker", 10, "--groups", 1)
    games = gist(runner, *HASHED, *flags)
    runner.close()
    assert len({tuple(game[2]) for game in games}) > 1
    return games


@pytest.mark.parametrize("spread", SPREADS, ids=[" ".join(str(part).strip("-") for part in s) for s in SPREADS])
def test_games_do_not_depend_on_workers_groups_pool_or_cache(
    grove: Grove, reference: list[Any], spread: tuple[object, ...]
) -> None:
    assert gist(grove, *HASHED, *spread) == reference


def test_another_seed_gives_other_games(grove: Grove, reference: list[Any]) -> None:
    others = gist(grove, *HASHED[:8], 8, *HASHED[9:])
    assert [game[2] for game in others] != [game[2] for game in reference]


NETWORK = (
    *("selfplay", "--game", "connect_four", "--games", GAMES, "--simulations", 16, "--seed", 7, "--deterministic"),
    *("--network", "resnet:blocks=1,channels=8", "--device", "cpu", "--dtype", "fp32", "--max-batch", 32),
)


def test_with_a_network_under_deterministic(grove: Grove) -> None:
    one = gist(grove, *NETWORK, "--pool", "process", "--workers", 1, "--games-per-worker", 10)
    four = gist(grove, *NETWORK, "--pool", "process", "--workers", 4, "--games-per-worker", 2)
    threads = gist(grove, *NETWORK, "--pool", "thread", "--workers", 4, "--games-per-worker", 3)
    assert one == four == threads
