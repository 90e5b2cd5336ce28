"""From games per minute to days: the origin's numbers, intervals, and what cannot be said."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from bench.estimate import Plan, days, games_rate, parse_plan, plan_columns
from bench.report import print_days
from bench.results import LEAST_GAMES, games_interval
from bench.slices import Slice
from common.errors import SettingError

ORIGIN = Plan(500, 10_000)


@pytest.mark.parametrize(("rate", "wanted"), [(43.3, 80.2), (68.3, 50.8)])
def test_the_origins_plan_takes_the_origins_days(rate: float, wanted: float) -> None:
    assert round(days(ORIGIN, rate), 1) == wanted


@pytest.mark.parametrize("text", ["500x10000", " 500 X 10,000 ", "500*10_000"])
def test_plans_as_people_write_them(text: str) -> None:
    assert parse_plan(text) == ORIGIN
    assert ORIGIN.total == 5_000_000
    assert str(ORIGIN) == "500 x 10,000"


def test_no_plan_is_no_plan() -> None:
    assert parse_plan(None) is None


WRONG = ["", "500", "500x", "0x10", "500x10000x2", "500x1e4", "-5x10", "ax10", "9x" + "9" * 20]


@pytest.mark.parametrize("text", WRONG)
def test_a_plan_that_is_none_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(SettingError, match="write it like 500x10000"):
        parse_plan(text)


def test_interval_of_one_slice_is_that_of_its_count() -> None:
    found = games_rate([(100, 60.0)])
    assert found.middle == pytest.approx(100)
    assert (found.low, found.high) == pytest.approx((100 - 19.6, 100 + 19.6))


def test_interval_is_never_narrower_than_the_count_allows() -> None:
    assert games_rate([(25, 15.0)] * 4) == pytest.approx(games_rate([(100, 60.0)]))


def test_interval_grows_with_what_the_slices_differ() -> None:
    found = games_rate([(10, 6.0), (30, 6.0), (20, 6.0)])
    # Student's t for two degrees of freedom, standard error of the mean of 100, 300 and 200 games a minute.
    assert found.high - found.middle == pytest.approx(4.30 * 100 / math.sqrt(3))
    assert found.low == 0.0


def test_slices_of_unequal_length_count_by_their_seconds() -> None:
    assert games_rate([(10, 10.0), (60, 20.0)]).middle == pytest.approx(60 * 70 / 30)
    assert games_rate([(0, 5.0), (0, 5.0)]) == (0.0, 0.0, 0.0)


def test_days_of_a_row() -> None:
    row = {"games_per_minute": 43.3, "games_per_minute_low": 40.0, "games_per_minute_high": 50.0}
    found = plan_columns(ORIGIN, row)
    assert found["plan_games"] == 5_000_000
    rates = [found[key] for key in ("plan_days_low", "plan_days", "plan_days_high")]
    assert rates == pytest.approx([days(ORIGIN, rate) for rate in (50.0, 43.3, 40.0)])
    withheld = plan_columns(ORIGIN, dict.fromkeys(row))
    assert [withheld[key] for key in ("plan_days", "plan_days_low", "plan_days_high")] == [None, None, None]
    assert plan_columns(ORIGIN, row | {"games_per_minute_low": 0.0})["plan_days_high"] is None


def test_interval_of_a_comparison_is_withheld_with_its_rate() -> None:
    def found(games: int) -> list[float | None]:
        return list(games_interval([Slice(30.0, {"games": games}, {})]).values())

    assert found(LEAST_GAMES - 1) == [None, None]
    low, high = found(LEAST_GAMES)
    assert low is not None
    assert high is not None
    assert low < 2 * LEAST_GAMES < high


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
