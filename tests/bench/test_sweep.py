"""`grove bench sweep`: its settings and points (its run: test_measuring.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from grove.bench.sweep.points import (
    Point,
    check_processes,
    check_team,
    make_points,
    parse_axis,
    point_plan,
    teams,
)
from grove.commands.sweep import Sweep
from grove.common.errors import SettingError
from grove.run.settings import flatten, parse
from grove.workers.pool.settings import PoolSettings
from tests.support.sweep_tools import asked


def test_presets_and_config_files_set_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "grove" / "presets"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text('# mine\nworkers = 3\nmax_batch = 128\nover_lanes = "1,2"\nseconds = 9.0\n')
    config = tmp_path / "config.toml"
    config.write_text('max_batch = 256\nover_workers = "1..4"\n')
    found = flatten(parse(Sweep, ["--preset", "mine", "--config", str(config), "--visits", "1"], "grove"))
    names = ("workers", "max_batch", "over_lanes", "over_workers", "visits")
    assert [found[name] for name in names] == [3, 256, "1,2", "1..4", 1]
    assert parse(Sweep, ["--preset", "blob-medium"], "grove").search.worlds == 3


# -- points ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [("1..64", (1, 2, 4, 8, 16, 32, 64)), ("3..10", (3, 6, 10)), (" 8, 1,8", (1, 8)), ("off", ()), ("auto", (5, 7))],
)
def test_axes_are_lists_or_doublings(text: str, values: tuple[int, ...]) -> None:
    assert parse_axis("workers", text, (7, 5, 7)) == values


def test_a_star_varies_one_setting_at_a_time() -> None:
    axes = {"workers": (1, 2, 4), "max_batch": (32, 64), "lanes": (), "max_delay_us": (0,), "games_per_worker": (64,)}
    points = make_points(asked(), axes, grid=False)
    assert [point.varied for point in points] == [
        *("base", "workers", "workers", "games_per_worker", "max_batch", "max_delay_us"),
    ]
    base = points[0]
    assert base[:6] == ("server-process", 2, 32, 64, 5000, 1)
    assert all(sum(a != b for a, b in zip(point[:6], base[:6], strict=True)) == 1 for point in points[1:])
    assert len({point.key for point in points}) == len(points)


def test_a_grid_takes_all_combinations_of_what_matters_to_a_mode() -> None:
    axes = {"workers": (1, 2, 4), "max_batch": (32, 64), "lanes": (1, 2)}
    both = make_points(asked(modes=("server-thread", "local")), axes, grid=True)
    assert [sum(point.mode == mode for point in both) for mode in ("server-thread", "local")] == [12, 3]


def test_searches_of_other_lengths_are_points_of_a_star_only() -> None:
    base, thorough = make_points(asked(), {"simulations": (8, 32)}, grid=False)  # 8 is what the base has
    assert (base.simulations, base.varied, thorough.simulations, thorough.varied) == (0, "base", 32, "simulations")
    assert thorough.key == f"{base.key}-s32"
    assert str(thorough).endswith("1 lane, 32 simulations")
    assert [point_plan(asked(), point).search.simulations for point in (base, thorough)] == [8, 32]
    with pytest.raises(SettingError, match="a grid compares the points of one load"):
        make_points(asked(), {"simulations": (8, 32)}, grid=True)


def test_what_is_left_open_is_derived_for_each_number_of_workers() -> None:
    points = make_points(asked(pool=PoolSettings()), {"workers": (1, 2, 4), "games_per_worker": (0, 16)}, grid=True)
    games = {point.workers: point.games_per_worker for point in points if point.games_derived}
    assert games[1] == 2 * games[2] > games[4] > 0
    assert {point.games_per_worker for point in points if not point.games_derived} == {16}


@pytest.mark.parametrize("mode", ["local", "direct"])
def test_workers_with_networks_of_their_own_are_swept_too(mode: str) -> None:
    plan = point_plan(asked(), Point(mode, 3, 8, 64, 0, 0))
    assert (plan.evaluator, plan.pool, plan.process_sizes.workers, plan.process_sizes.games) == (mode, "process", 3, 8)


def test_processes_that_memory_cannot_hold_are_refused() -> None:
    check_processes("direct", 10, lambda: 4 << 30)
    with pytest.raises(SettingError, match=r"workers is 128, but .* take about 50 GiB and 4.0 GiB are free"):
        check_processes("direct", 128, lambda: 4 << 30)


def test_rules_and_ours_are_measured_together() -> None:
    points = make_points(asked(modes=("server-process", "server-thread", "drain")), {"workers": (1, 2)}, grid=False)
    assert [[(point.mode, point.workers) for point in team] for team in teams(points)] == [
        *([("server-process", count), ("drain", count)] for count in (2, 1)),
        *([("server-thread", count)] for count in (2, 1)),
    ]
    check_team(asked(), teams(points)[0])
    many = points[0]._replace(workers=1024, games_per_worker=1024)
    with pytest.raises(SettingError, match="are free"):
        check_team(asked(), (many,) * 16)
