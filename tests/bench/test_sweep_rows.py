"""From a sweep's visits to its rows and its chart: what counts, what is left out, what is said."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from rich.console import Console

from grove.bench.sweep import points as sweep_points
from grove.bench.sweep.chart import draw_sweep
from grove.bench.sweep.finding import AXES, best_point, finding, rules_finding, swept_axes, values_of
from grove.bench.sweep.points import Point
from grove.bench.sweep.report import print_rows
from grove.bench.sweep.rows import sweep_rows, to_csv
from grove.bench.sweep.rules_chart import draw_rules
from grove.bench.sweep.sweep import SweepPlan
from grove.bench.sweep.visits import Visit, latest, read_visits
from tests.support.sweep_tools import POINTS, a_visit, asked, failed_visit


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


def test_longer_searches_are_another_load() -> None:
    played = {"played": [800.0, 100.0, 10, 100.0, 1100.0]}
    thorough = a_visit(POINTS[0]._replace(varied="simulations", simulations=32), rate=900.0)
    rows = rows_of([a_visit(POINTS[0]), a_visit(POINTS[1]), replace(thorough, pool=thorough.pool | played)])
    assert [(row["simulations_per_search"], row["simulations_per_game"]) for row in rows] == [
        (8, 20),
        (8, 20),
        (32, 80),
    ]
    assert finding(rows).startswith(
        "Fastest with 1 search process: 10 % of the peak, 100 evaluations/s, not told apart"
    )
    assert swept_axes(rows) == ["workers", "simulations"]
    assert finding(rows[2:]) == "No point of the load itself could be measured"


def test_visits_of_a_busy_machine_are_left_out_or_noted() -> None:
    calm = [a_visit(POINTS[0]), a_visit(POINTS[1]), a_visit(POINTS[1], 1)]
    one, two, _ = rows_of([*calm, a_visit(POINTS[0], 1, speed=0.5, rate=50.0), a_visit(POINTS[2], speed=0.5)])
    assert (one["visits"], one["visits_dropped"], one["evaluations_per_second"]) == (1, 1, 100.0)
    assert (two["visits"], two["visits_dropped"], two["note"]) == (2, 0, None)
    three = rows_of([*calm, a_visit(POINTS[2], speed=0.5)])[2]
    assert (three["visits"], three["success"], three["probe_moved"]) == (1, True, 0.5)
    assert "the burn probe moved by 50%" in three["note"]
    again = a_visit(POINTS[0])
    assert (
        "2 workers were started again"
        in rows_of([replace(again, pool=again.pool | {"workers_restarted": 2})])[0]["note"]
    )


def test_more_than_the_network_alone_is_doubted() -> None:
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


# -- chart -------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("rates", [(100.0, 900.0, 90.0), (5.0,)])
def test_picture_is_written_and_keeps_its_margins(rates: tuple[float, ...], tmp_path: Path) -> None:
    rows = star(*rates)
    assert values_of(rows, "max_batch") == [32, 64, 128]
    path = draw_sweep(rows, tmp_path / "chart.png", subtitle="two cores")
    assert path is not None
    picture = imread(path)[..., :3]
    assert picture.min() < 0.5
    assert all((edge == 1.0).all() for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]))


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
    assert draw_rules([one, four], tmp_path / "rules.png") is None
    path = draw_rules(rows, tmp_path / "rules.png", subtitle="two cores")
    assert path is not None
    picture = imread(path)[..., :3]
    assert picture.min() < 0.5
    assert all((edge == 1.0).all() for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]))


def test_nothing_measured_is_nothing_drawn(tmp_path: Path) -> None:
    assert draw_sweep(rows_of([failed_visit(POINTS[0])]), tmp_path / "chart.png") is None
    assert tuple(AXES) == sweep_points.AXES
    assert not os.listdir(tmp_path)
