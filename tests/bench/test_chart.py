"""The chart of a comparison: its texts, and that it is a readable picture for few and many modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from grove.bench.core.chart import draw_comparison, short, table_columns

ROWS: list[dict[str, Any]] = [
    {
        "mode": "server-thread",
        "evaluations_per_second": 122_400.0,
        "games_per_minute": 2410.0,
        "ratio_to_direct": 9.71,
        "peak": 126_000.0,
        "half_range": 900.0,
    },
    {"mode": "local", "evaluations_per_second": 41_500.0, "games_per_minute": 815.0, "peak": 126_000.0},
    {"mode": "direct", "evaluations_per_second": 12_600.0, "ratio_to_direct": 1.0, "peak": 126_000.0},
]


def test_columns_hold_what_is_known() -> None:
    assert table_columns(ROWS, 126_000.0) == {
        "of the peak": ["97 %", "33 %", "10 %"],
        "vs direct": ["9.7x", "", "1.0x"],
        "games/min": ["2,410", "815", ""],
    }
    assert table_columns([{"mode": "a", "evaluations_per_second": 1.0}], None) == {}


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS * 4, [{"mode": "a", "evaluations_per_second": 0.0}]])
def test_picture_is_written_and_keeps_its_margins(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = draw_comparison(rows, tmp_path / "chart.png", title="Connect Four", subtitle="two cores")
    picture = imread(path)[..., :3]
    assert picture.shape[1] == 1500
    assert picture.min() < 0.5
    edges = (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:])
    assert all((edge == 1.0).all() for edge in edges)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (0.25, "0.25"), (99.97, "100"), (999.9, "1.0k")),
        *((12_345, "12.3k"), (20_000, "20k"), (1.25e6, "1.2M")),
    ],
)
def test_short_rates(value: float, text: str) -> None:
    assert short(value) == text
