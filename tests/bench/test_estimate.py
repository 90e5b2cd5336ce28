"""From games per minute to days: the origin's numbers, intervals, and what cannot be said."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from grove.bench.core.estimate import (
    LEAST_GAMES,
    GameCost,
    LongRun,
    Played,
    days,
    game_cost,
    games_rate,
    parse_plan,
    plan_columns,
)
from grove.bench.core.report import print_days
from grove.bench.core.results import per_minute
from grove.bench.core.slices import Slice
from grove.common.errors import SettingError

ORIGIN = LongRun(500, 10_000)


@pytest.mark.parametrize(("rate", "wanted"), [(43.3, 80.2), (68.3, 50.8)])
def test_the_origins_plan_takes_the_origins_days(rate: float, wanted: float) -> None:
    assert round(days(ORIGIN, rate), 1) == wanted


@pytest.mark.parametrize("text", ["500x10000", " 500 X 10,000 ", "500*10_000"])
def test_plans_as_people_write_them(text: str) -> None:
    assert parse_plan(text) == ORIGIN
    assert ORIGIN.total == 5_000_000
    assert str(ORIGIN) == "500 x 10,000"


WRONG = ["", "500", "500x", "0x10", "500x10000x2", "500x1e4", "-5x10", "ax10", "9x" + "9" * 20]


@pytest.mark.parametrize("text", WRONG)
def test_a_plan_that_is_none_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(SettingError, match="write it like 500x10000"):
        parse_plan(text)


STEADY = {"decisions": 400.0, "in_progress": 100.0, "simulations": 50 * 450.0, "moves": 500.0}
"""400 decisions of 50 simulations each and 100 half-made ones; every fifth move is forced."""


def test_a_game_costs_its_length_times_what_a_move_takes() -> None:
    pool, young = Played.of(STEADY, [10] * 20 + [15] * 20), Played.of(STEADY, [])
    cost = game_cost([pool])
    assert cost is not None
    assert cost.simulations == pytest.approx(12.5 * 0.8 * 50)
    assert cost.error == pytest.approx(2.02 * (2.5 / math.sqrt(39)) / 12.5, rel=0.01)
    assert game_cost([pool, young]) == pytest.approx(cost)
    assert game_cost([pool, pool]) == pytest.approx(cost), "the same games twice tell no more"


def test_a_cost_needs_finished_games() -> None:
    assert game_cost([]) is None
    assert game_cost([Played.of(STEADY, [9] * (LEAST_GAMES - 1))] * 3) is None
    assert game_cost([Played.of({}, [9] * LEAST_GAMES)]) is None


def slices(*done: tuple[float, float]) -> list[Slice]:
    return [Slice(seconds, {"simulations": simulations}, {}) for simulations, seconds in done]


EXACT = GameCost(500.0, 0.0)


def test_games_follow_from_simulations_and_not_from_their_count() -> None:
    steady = slices((1000, 2.0), (1000, 2.0))
    steady[0].workers["games"] = 99
    assert games_rate(steady, EXACT) == pytest.approx((60.0, 60.0, 60.0))
    assert games_rate(slices((500, 10.0), (3000, 20.0)), EXACT).median == pytest.approx(60 * 3500 / 30 / 500)
    assert games_rate(slices((0, 5.0), (0, 5.0)), EXACT) == (0.0, 0.0, 0.0)


def test_interval_holds_what_the_slices_differ_and_what_is_known_of_the_length() -> None:
    found = games_rate(slices((1000, 6.0), (3000, 6.0), (2000, 6.0)), EXACT)
    # Student's t for two degrees of freedom, standard error of the mean of 20, 60 and 40 games a minute.
    assert found.high - found.median == pytest.approx(4.30 * 20 / math.sqrt(3))
    assert found.low == 0.0
    assert games_rate(slices((1000, 2.0)), GameCost(500.0, 0.1)) == pytest.approx((60.0, 54.0, 66.0))
    both = games_rate(slices((1000, 6.0), (3000, 6.0), (2000, 6.0)), GameCost(500.0, 0.5))
    assert both.high / both.median - 1 == pytest.approx(math.hypot(found.high / found.median - 1, 0.5))


def test_days_of_a_row() -> None:
    row = {"games_per_minute": 43.3, "games_per_minute_low": 40.0, "games_per_minute_high": 50.0}
    found = plan_columns(ORIGIN, row)
    assert found["plan_games"] == 5_000_000
    rates = [found[key] for key in ("plan_days_low", "plan_days", "plan_days_high")]
    assert rates == pytest.approx([days(ORIGIN, rate) for rate in (50.0, 43.3, 40.0)])
    withheld = plan_columns(ORIGIN, dict.fromkeys(row))
    assert [withheld[key] for key in ("plan_days", "plan_days_low", "plan_days_high")] == [None, None, None]
    assert plan_columns(ORIGIN, row | {"games_per_minute_low": 0.0})["plan_days_high"] is None


def test_rates_per_minute_are_withheld_and_say_why() -> None:
    units = {"matches": 1, "rounds": 18}
    found = per_minute(slices((1000, 2.0)), None, units)
    assert {found[name] for name in ("games_per_minute", "matches_per_minute", "simulations_per_game")} == {None}
    assert found["note"].startswith(f"fewer than {LEAST_GAMES} matches ended")
    found = per_minute(slices((1000, 2.0)), EXACT, units)
    assert (found["matches_per_minute"], found["rounds_per_minute"], found["note"]) == (60.0, 60.0 * 18, None)


def test_days_are_printed_by_mode_in_the_units_of_the_game() -> None:
    names = ("games_per_minute", "games_per_minute_low", "games_per_minute_high")
    rates = {"direct": (43.3, 0.0, 60.0), "served": (9e4, 8e4, 1e5), "local": (None, None, None)}
    rows = {mode: {"unit": "rounds", **dict(zip(names, found, strict=True))} for mode, found in rates.items()}
    out = io.StringIO()
    print_days(ORIGIN, [(mode, row | plan_columns(ORIGIN, row)) for mode, row in rows.items()], Console(file=out))
    head, direct, served, local = out.getvalue().splitlines()
    assert head.startswith("500 x 10,000 rounds")
    assert direct.split() == ["direct", "80.2", "57.9", "or", "more"]
    assert served.split() == ["served", "0.0386", "0.0347..0.0434"]
    assert local.split() == ["local", "-", "-"]
