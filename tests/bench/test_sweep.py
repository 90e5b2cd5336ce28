"""`grove bench sweep` on recorded visits: its points, its rows, what it says and draws (its run: test_measuring.py)."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from rich.console import Console

from grove.bench.core.gpu_watch import NO_GPU
from grove.bench.core.modes import Asked
from grove.bench.core.slices import Slice
from grove.bench.sweep.chart import draw_sweep
from grove.bench.sweep.finding import best_point, finding, rules_finding
from grove.bench.sweep.points import Point, check_processes, check_team, make_points, parse_axis, point_plan, teams
from grove.bench.sweep.report import print_rows
from grove.bench.sweep.rows import sweep_rows, to_csv
from grove.bench.sweep.rules_chart import draw_rules
from grove.bench.sweep.sweep import SweepPlan
from grove.bench.sweep.visits import Visit, latest, read_visits
from grove.commands.sweep import Sweep
from grove.common.errors import SettingError
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.run.settings import flatten, parse
from grove.workers.pool.settings import PoolSettings


def asked(out: Path = Path("out"), **changes: Any) -> Asked:
    base = Asked(
        game_spec="connect_four",
        modes=("server-process",),
        seconds=3.0,
        out=out,
        seed=0,
        search=SearchSettings(simulations=8),
        pool=PoolSettings(workers=2, games_per_worker=32),
        network=NetworkSettings(network="mlp:layers=1,width=8", device="cpu"),
        server=ServerSettings(max_batch=64, lanes=1),
        probe_limit=0.1,
    )
    return replace(base, **changes)


POINTS = [Point("server-process", workers, 32, 64, 5000, 1, "workers") for workers in (1, 2, 4)]


def a_visit(point: Point, number: int = 0, speed: float = 1.0, rate: float = 100.0, games: int = 10) -> Visit:
    server = {
        **{"requests": 4, "rows": 100, "bucket_rows": 128, "batches": 2, "queue_us": [4], "compute_us": [4]},
        **{"batch_sizes": [0, 2], "reasons": {"full": 1, "delay": 1}, "lanes": [{"idle_s": 1.0, "busy_s": 1.0}]},
    }
    workers = {"evaluations": rate, "simulations": rate, "decisions": 50, "games": games}
    pool = {"workers": point.workers, "games": 32, "groups": 4, "lanes": 1, "device": "cpu", "dtype": "fp32"}
    pool |= {
        "evaluations_by_worker": [30.0, 10.0],
        "mean_visit_entropy": 1.0,
        "mean_game_moves": 9.0,
        "mean_game_examples": 7.5,
    }
    pool |= {"played": [200.0, 100.0, games, 10.0 * games, 110.0 * games]}
    pool |= {"worker_peak_rss_mb": 80.0, "server_peak_rss_mb": None, "workers_restarted": 0}
    return Visit(
        point=point,
        number=number,
        time="now",
        start_s=1.0,
        slices=[asdict(Slice(1.0, workers, server, 1.5))] * 2,
        peak=[(1000.0, 1e-6), (1000.0, 1e-6)],
        probes=[(speed, 2 * speed, 2)] * 2,
        pool=pool,
        others_cpu=0.5,
        gpus=NO_GPU,
    )


def failed_visit(point: Point, number: int = 0) -> Visit:
    return Visit(point=point, number=number, time="now", failure="no memory; use fewer workers")


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


# -- rows, words and charts --------------------------------------------------------------------------------------------


def rows_of(visits: list[Visit]) -> list[dict[str, Any]]:
    return sweep_rows(asked(), POINTS, visits, {"games": 1})


def test_visits_go_forwards_then_backwards_and_leave_out_what_is_done() -> None:
    plan = SweepPlan(asked=asked(), points=tuple(POINTS), visits=2)
    assert [(team[0].workers, number) for team, number in plan.todo([])] == [
        *((1, 0), (2, 0), (4, 0), (4, 1), (2, 1), (1, 1)),
    ]
    done = [a_visit(POINTS[0]), failed_visit(POINTS[1]), a_visit(POINTS[2]), a_visit(POINTS[2], 1)]
    assert [(team[0].workers, number) for team, number in plan.todo(done)] == [(2, 0), (2, 1), (1, 1)]


def test_visits_survive_their_file_and_torn_lines_do_not(tmp_path: Path) -> None:
    first, again = failed_visit(POINTS[1]), a_visit(POINTS[1])
    path = tmp_path / "visits.jsonl"
    assert read_visits(path) == []
    whole = a_visit(POINTS[0]).line() + first.line() + b'{"number": 3}\n[]\n' + again.line()
    path.write_bytes(whole + again.line()[:-30])
    found = read_visits(path)
    assert [(visit.point, visit.failure) for visit in found] == [(POINTS[0], ""), (POINTS[1], "")]
    assert rows_of(found) == rows_of(latest([a_visit(POINTS[0]), first, again]))


def test_a_row_adds_up_its_visits() -> None:
    row = rows_of([a_visit(POINTS[1]), a_visit(POINTS[1], 1, rate=200.0)])[0]
    assert (row["visits"], row["seconds"], row["games"], row["examples"]) == (2, 4.0, 40, 200)
    assert (row["evaluations_per_second"], row["simulations_per_game"]) == (150.0, 20.0)
    assert row["games_per_minute"] == pytest.approx(60 * 150 / 20)
    assert (row["evaluations_per_second_low"], row["evaluations_per_second_high"]) == (100.0, 200.0)
    assert (row["peak"], row["peak_share"], row["fill"]) == (1000.0, pytest.approx(0.15), pytest.approx(100 / 128))
    assert (row["sent_full"], row["sent_delay"], row["sent_shutdown"]) == (4, 4, None)
    assert (row["slowest_worker"], row["fastest_worker"]) == (0.5, 1.5)
    assert (row["cpu_percent"], row["over_subscription"]) == (75.0, 1.5)
    assert row["games_per_minute_low"] < 450.0 < row["games_per_minute_high"]
    assert row["examples_per_game"] == 7.5, "of whole games, not by those that ended meanwhile"


def test_visits_of_a_busy_machine_are_left_out_or_noted() -> None:
    calm = [a_visit(POINTS[0]), a_visit(POINTS[1]), a_visit(POINTS[1], 1)]
    one, two, _ = rows_of([*calm, a_visit(POINTS[0], 1, speed=0.5, rate=50.0), a_visit(POINTS[2], speed=0.5)])
    assert (one["visits"], one["visits_dropped"], one["evaluations_per_second"]) == (1, 1, 100.0)
    assert (two["visits"], two["visits_dropped"], two["note"]) == (2, 0, None)
    three = rows_of([*calm, a_visit(POINTS[2], speed=0.5)])[2]
    assert (three["visits"], three["success"], three["probe_moved"]) == (1, True, 0.5)
    assert "the burn probe moved by 50%" in three["note"]
    (row,) = rows_of([a_visit(POINTS[0], rate=1200.0)])
    assert row["note"] == "120% of the network alone cannot be: the machine's speed changed between the two"


def test_failures_and_few_games_are_said() -> None:
    few, broken, mixed = rows_of(
        [a_visit(POINTS[0], games=1), failed_visit(POINTS[1]), a_visit(POINTS[2], games=4), failed_visit(POINTS[2], 1)]
    )
    assert (few["games_per_minute"], few["games_per_minute_low"]) == (None, None)
    assert "fewer than 5 games ended" in few["note"]
    assert (broken["success"], broken["evaluations_per_second"]) == (False, None)
    assert (mixed["success"], mixed["failure"]) == (True, "no memory; use fewer workers")
    out = io.StringIO()
    print_rows([few, broken, mixed], Console(file=out, width=300))
    said = out.getvalue()
    assert "games/min" in said
    assert "server-process, 2 workers: no memory; use fewer workers" in said
    assert to_csv([few, broken]).splitlines()[2].count(",") == to_csv([few]).splitlines()[0].count(",")


def star(*rates: float) -> list[dict[str, Any]]:
    """Return rows of 1, 2, 4... workers with these rates, the first one being the base, and two more batch caps."""
    points = [Point("server-process", 1 << i, 32, 64, 5000, 1, "workers" if i else "base") for i in range(len(rates))]
    more = [points[0]._replace(max_batch=cap, varied="max_batch") for cap in (32, 128)]
    threads = [point._replace(mode="server-thread") for point in points]
    made = [a_visit(point, rate=rate) for point, rate in zip(points, rates, strict=True)]
    made += [a_visit(point, rate=rates[0]) for point in more]
    made += [a_visit(point, rate=rate / 2) for point, rate in zip(threads, rates, strict=True)]
    return sweep_rows(asked(), [], [*made, failed_visit(points[-1]._replace(workers=64))], {"games": 1})


def test_the_title_says_the_finding() -> None:
    assert finding(star(100, 900, 90)) == (
        "Fastest with 2 search processes: 90 % of the peak, 900 evaluations/s; 4 workers reach 10 % of that"
    )
    assert finding(star(100, 200, 900)).endswith("90 % of the peak, 900 evaluations/s")


def test_points_of_different_minutes_are_compared_by_their_peaks() -> None:
    slow, fast = a_visit(POINTS[0], rate=100.0), a_visit(POINTS[1], rate=90.0)
    rows = rows_of([slow, replace(fast, peak=[(120.0, 1e-6)] * 2)])
    assert best_point(rows) == 1
    assert finding(rows) == "Fastest with 2 search processes: 75 % of the peak, 90 evaluations/s"
    assert best_point([row | {"peak_share": ""} for row in rows]) == 0
    assert best_point(rows_of([failed_visit(POINTS[0])])) == best_point([]) == -1
    assert best_point([rows[0], rows[1] | {"note": "busy"}]) == 0
    assert best_point([row | {"note": "busy"} for row in rows]) == 1


def test_rules_are_paired_with_ours_and_told_apart(tmp_path: Path) -> None:
    ours, more = POINTS[0], POINTS[1]
    drain, full = ours._replace(mode="drain"), ours._replace(mode="full-only")
    made = [a_visit(ours), a_visit(drain, rate=50.0), a_visit(full, rate=200.0), a_visit(more)]
    made += [failed_visit(more._replace(mode="drain")), replace(a_visit(more._replace(mode="1ms")), time="later")]
    one, two, three, four, failed, apart = sweep_rows(asked(), [], made, {"games": 1})
    names = ("ours_by_rule", "ours_by_rule_low", "ours_by_rule_high")
    assert [[row[name] for name in names] for row in (two, three)] == [[2.0] * 3, [0.5] * 3]
    assert {row[name] for row in (one, four, failed, apart) for name in names} == {None}
    even = two | {"ours_by_rule_low": 0.9}
    said = "Our rule is ahead in 1 of 3 cases, not told apart in 1, behind in 1: full-only at 1 x 32"
    rows = [one, two, three, four, failed, apart, even | {"workers": 2}]
    assert rules_finding(rows) == said
    for path in (draw_rules(rows, tmp_path / "rules.png"), draw_sweep(star(100.0, 900.0, 90.0), tmp_path / "a.png")):
        assert path is not None
        picture = imread(path)[..., :3]
        assert picture.min() < 0.5
        assert all((edge == 1.0).all() for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]))
    assert draw_rules([one, four], tmp_path / "b.png") is draw_sweep([failed], tmp_path / "b.png") is None
