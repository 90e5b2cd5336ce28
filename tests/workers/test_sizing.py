"""How many games fill the lanes: it is their trees that count, one for each world."""

from __future__ import annotations

import pytest

from grove.common.errors import SettingError
from grove.game import load_game
from grove.inference_server import ServerSettings
from grove.mcts import SearchSettings, forest_capacity
from grove.workers.pool import sizing
from grove.workers.pool.plan import Sizes
from grove.workers.pool.settings import PoolSettings

LANES = ServerSettings(lanes=2, max_batch=512)  # four batches in flight: 2048 trees
BLOB = "blob:players=3,cards=3"


@pytest.mark.parametrize(
    ("worlds", "games", "workers", "expected"),
    [
        (1, 10**6, 4, 512),
        (8, 10**6, 4, 64),
        (100, 10**6, 4, 16),  # 21 games in all would do; fewer than 16 a worker would not pay
        (1, 10**6, 100, 64),
        (2, 10**6, 100, 32),
        (8, 10**6, 100, 16),
        (8, 40, 4, 16),
        (8, 5, 4, 5),  # never more than there are
    ],
)
def test_games_are_as_many_as_their_trees_need(worlds: int, games: int, workers: int, expected: int) -> None:
    for kind in ("thread", "process"):
        chosen = sizing.sizes(kind, PoolSettings(workers=workers), LANES, games, "cpu", worlds)
        assert (chosen.workers, chosen.games) == (min(workers, games), expected)


@pytest.mark.parametrize(
    ("settings", "game", "cores", "kind"),
    [
        ({}, "connect_four", 2, "thread"),
        ({}, "connect_four", 8, "thread"),
        ({}, "connect_four", 9, "process"),
        ({"evaluator": "rollout"}, "connect_four", 2, "thread"),
        ({"evaluator": "local"}, "connect_four", 2, "process"),
        ({}, "tests.support.naive_games:NaiveConnectFour", 2, "process"),
        ({"pool": "thread"}, "tests.support.naive_games:NaiveConnectFour", 64, "thread"),
        ({"pool": "process"}, "connect_four", 2, "process"),
    ],
)
def test_auto_takes_threads_for_compiled_games_on_few_cores(
    monkeypatch: pytest.MonkeyPatch, settings: dict, game: str, cores: int, kind: str
) -> None:
    monkeypatch.setattr(sizing, "usable_cores", lambda: cores)
    found, reason = sizing.pool_kind(PoolSettings(**settings), load_game(game))
    assert found == kind
    assert reason


def test_a_request_holds_the_rows_of_all_worlds() -> None:
    chosen, server = Sizes(workers=1, games=40, groups=4), ServerSettings(max_request_rows=160)
    sizing.check_requests(SearchSettings(worlds=8, leaves=2), server, chosen)
    with pytest.raises(SettingError, match=r"160 rows .* would ask 180"):
        sizing.check_requests(SearchSettings(worlds=9, leaves=2), server, chosen)


def test_requests_fit_into_the_window() -> None:
    chosen = Sizes(workers=1, games=32, groups=32)
    with pytest.raises(SettingError, match=r"31 requests .* would have 32"):
        sizing.check_requests(SearchSettings(), ServerSettings(max_window=31), chosen)
    sizing.check_requests(SearchSettings(), ServerSettings(max_window=32), chosen)


def test_memory_is_that_of_all_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    game, chosen = load_game(BLOB), Sizes(workers=2, games=12, groups=3)
    search = SearchSettings(worlds=5, simulations=50)
    total = sizing.check_memory(game, search, chosen)
    assert total == 6 * forest_capacity(game, 4, search).total_bytes
    assert total == 5 * sizing.check_memory(game, SearchSettings(simulations=50), chosen)
    monkeypatch.setattr(sizing, "free_memory_bytes", lambda: total - 1)
    with pytest.raises(SettingError, match="worlds"):
        sizing.check_memory(game, search, chosen)


def test_what_does_not_suit_the_game_is_refused_with_the_memory() -> None:
    chosen = Sizes(workers=1, games=1, groups=1)
    with pytest.raises(SettingError, match="--worlds 1"):
        sizing.check_memory(load_game("connect_four"), SearchSettings(worlds=2), chosen)
    with pytest.raises(SettingError, match="--reuse"):
        sizing.check_memory(load_game(BLOB), SearchSettings(reuse=True), chosen)
