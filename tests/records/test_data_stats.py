"""Statistics of games: intervals, seats of two and more players, time-outs, swaps, lengths, rates over time."""

from __future__ import annotations

import json
import random
import statistics
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grove.records.files import Run
from grove.records.stats import PERCENTS, Cap, Caps, Seats, SpecStats, length_table, read_rates, wilson
from tests.support.data_tools import game

LOOSE = Run(None, "")


def test_two_seats_with_draws_and_time_outs_apart() -> None:
    seats = Seats()
    for index in range(60):
        seats.add(game(index, utilities=[1.0, -1.0] if index % 3 else [-1.0, 1.0]))
    for index in range(10):
        seats.add(game(index, utilities=[0.0, 0.0]))
        seats.add(game(index, utilities=[0.0, 0.0], status="timeout"))
    table = seats.table()
    assert (table["games"], table["decided"], table["draws"], table["timeouts"]) == (80, 60, 10, 10)
    first, second = table["seats"]
    assert (first["wins"], second["wins"], first["share_95"]) == (40, 20, wilson(40, 60))
    assert first["share_95"] == pytest.approx((0.540, 0.773), abs=1e-3)  # by the formula
    assert wilson(0, 0) is None
    assert first["mean_utility"] == pytest.approx(20 / 70)
    low, high = first["mean_utility_95"]
    results = [1.0] * 40 + [-1.0] * 20 + [0.0] * 10
    half = 1.959964 * statistics.stdev(results) / 70**0.5
    assert (low, high) == pytest.approx((20 / 70 - half, 20 / 70 + half), abs=1e-6)


def test_models_are_counted_by_moves_and_games() -> None:
    part = SpecStats()
    part.add(game(0, models=["a", "a", None]), Cap(42, "x"))
    part.add(game(4, models=["a", "b", "b"]), None)
    part.add(game(4, models=["b", "b+c", "b+c"]), None)
    table = part.table()
    models = {row["model"]: (row["games"], row["moves"]) for row in table["models"]}
    assert models == {"a": (2, 3), "b": (2, 3), "c": (1, 0)}
    assert (table["mixed_games"], table["joint_moves"]) == (2, 2)
    assert table["timeouts"]["games_of_unknown_cap"] == 2


@given(st.lists(st.integers(0, 500), min_size=1, max_size=200))
def test_quantiles_are_those_of_the_sorted_list(values: list[int]) -> None:
    table = length_table(Counter(values))
    assert table is not None
    for percent in PERCENTS:
        assert table[f"p{percent}"] == sorted(values)[max(1, -(-percent * len(values) // 100)) - 1]
    assert table["mean"] == pytest.approx(sum(values) / len(values))
    assert sum(table["counts"].values()) == len(values)


@pytest.mark.parametrize(
    ("config", "spec", "moves", "source"),
    [
        ("max_moves = 20", "connect_four", 20, "max_moves"),
        ("max_moves = 0", "connect_four", 42, "rules"),
        ("max_moves = 99", "hex:size=4", 16, "rules"),
        ("max_moves = 9", "nowhere:Game", 9, "max_moves"),
        ("max_moves = true", "hex:size=4", 16, "rules"),
        ("", "nowhere:Game", None, ""),
        ("", "hex:size=-3", None, ""),
        ("", "blob:players=4,cards=5", 24, "rules"),
    ],
)
def test_the_cap_and_who_says_so(tmp_path: Path, config: str, spec: str, moves: int | None, source: str) -> None:
    (tmp_path / "config.toml").write_text(config)
    caps = Caps()
    cap = caps.cap(Run(tmp_path, "x"), spec)
    assert (None if cap is None else cap.moves) == moves
    assert cap is None or source in cap.source
    assert caps.problems == []


def test_a_config_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"a = [" + b"[" * 100_000)
    caps = Caps()
    for _ in range(2):
        cap = caps.cap(Run(tmp_path, "x"), "connect_four")
        assert cap is not None
        assert cap.moves == 42
    assert len(caps.problems) == 1
    assert caps.cap(LOOSE, "connect_four") == cap


def test_rates_over_time_keep_games_and_seconds_however_long_the_run(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = [
        {
            "time": 1000.0 + 5 * i,
            "interval_s": 5.0,
            "games_per_minute_by_worker": [draw.random() * 100, 60.0][: 1 + i % 2],
        }
        for i in range(1000)
    ]
    hostile = [b"", b"[", b"[]", b"{}", b'{"time":1,"interval_s":1,"games_per_minute_by_worker":[NaN]}', b"\xff" * 9]
    hostile += [b'{"time":1,"interval_s":1,"games_per_minute_by_worker":["1"]}', b"[" * 99_999]
    (tmp_path / "metrics.jsonl").write_bytes(
        b"\n".join([*hostile, *(json.dumps(row).encode() for row in rows)]) + b"\n"
    )
    table = read_rates(tmp_path)
    slices = table["slices"]
    assert 60 <= len(slices) <= 120
    assert [part["end"] for part in slices[:-1]] < [part["begin"] for part in slices[1:]]
    assert len({len(range(int(part["begin"]), int(part["end"]) + 1, 5)) for part in slices[:-1]}) == 1
    first = sum(row["games_per_minute_by_worker"][0] for row in rows) / 1000
    assert table["games_per_minute_by_worker"] == pytest.approx([first, 60.0])
    assert table["problems"] == [f"{tmp_path / 'metrics.jsonl'}: {len(hostile)} lines tell no rates of workers"]
