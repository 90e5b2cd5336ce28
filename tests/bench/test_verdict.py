"""The verdict of `grove bench limit` on recorded figures: the bounds, every kind, what a setting may bring."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grove.bench.limit.bounds import LimitFigures, bounds, network_rate_at
from grove.bench.limit.verdict import judge

US = 1e-6
# Two cores. An evaluation takes 16 us of the network, 3 of the search, 1 of the records: 2 / 20 us = 100k/s.
USUAL = LimitFigures(
    cores=2,
    workers=2,
    games_per_worker=256,
    groups=4,
    lanes=2,
    max_batch=512,
    threads=True,
    compiled=True,
    network_on_cores=True,
    network_rate=125_000.0,
    network_cpu=16 * US,
    ladder={1: 5_000.0, 64: 80_000.0, 512: 125_000.0},
    tried=((2, 256, 120_000.0), (2, 512, 125_000.0)),
    search_rate=300_000.0,
    search_cpu=3 * US,
    wire_rate=400_000.0,
    wire_cpu=4 * US,
    wire_rows=64,
    writer_rate=1_000_000.0,
    writer_cpu=1 * US,
    whole_rate=90_000.0,
    whole_cpu=22 * US,
    idle_cores=0.02,
    waiting=0.7,
    lane_idle=0.05,
    batch_rows=500.0,
    fill=0.98,
)


def usual(**changes: Any) -> LimitFigures:
    m = replace(USUAL, **changes)
    return m if "idle_cores" in changes else replace(m, idle_cores=max(m.cores - m.whole_rate * m.whole_cpu, 0.0))


def rates(m: LimitFigures) -> dict[str, float]:
    return {bound.name: round(bound.rate) for bound in bounds(m) if bound.used}


def test_bounds_of_threads_of_processes_and_of_a_gpu() -> None:
    alone = {"network": 125_000, "search": 600_000}
    in_turn = round(2 / (1 / 300_000 + 1 / 1_000_000))
    assert rates(USUAL) == {**alone, "writer": 1_000_000, "cores": 100_000, "workers": in_turn}
    assert rates(usual(threads=False)) == {
        **alone, "wire": 400_000, "writer": 2_000_000, "cores": round(2 / (24 * US)), "workers": in_turn
    }  # fmt: skip
    assert [bound.used for bound in bounds(USUAL) if bound.name == "wire"] == [False]
    assert rates(usual(network_on_cores=False))["cores"] == 500_000, "the network takes no core"
    assert rates(usual(compiled=False))["search"] == 300_000, "threads of a game in Python take turns"
    assert rates(usual(workers=8, threads=False, search_cpu=0.3 * US))["search"] == 8 * 300_000, "a game that waits"
    unwritten = rates(usual(writer_rate=None, writer_cpu=0.0))
    assert ("writer" in unwritten, unwritten["workers"]) == (False, 600_000)


GPU = {"network_on_cores": False}
PROCESSES = {"threads": False}
SLOW_WIRE = {"threads": False, "wire_rate": 8_000.0, "waiting": 0.9, "lane_idle": 0.9, "batch_rows": 64.0}
IN_PYTHON = {"compiled": False, "threads": False, "search_rate": 500.0, "search_cpu": 2000 * US, "waiting": 0.1}
FEW = {"workers": 1, "games_per_worker": 4, "groups": 2, "wire_rows": 2, "waiting": 0.9, "lane_idle": 0.5}
CROWD = {"workers": 32, "threads": False, "whole_rate": 50_000.0, "whole_cpu": 38 * US, "games_per_worker": 16}
MANY_CORES = {"cores": 16, "network_on_cores": False, "network_rate": 2e6, "writer_rate": None}
SLOW_DISK = {"threads": False, "writer_rate": 10_000.0, "whole_rate": 18_000.0, "waiting": 0.05, "lane_idle": 0.8}
TINY = {"network_rate": 2e6, "network_cpu": 1 * US, "whole_rate": 360_000.0, "lane_idle": 0.6, "waiting": 0.2}
OWN_SEARCH = {"workers": 16, "cores": 32, "whole_rate": 60_000.0, "waiting": 0.44, "lane_idle": 0.5} | GPU
CASES: list[tuple[dict[str, Any], str, str, str]] = [
    ({}, "network", "the network takes 80 % of the cores' time", "--network"),
    (GPU | {"whole_rate": 120_000.0}, "network", "network-bound at 96 % of its limit, the network alone", "--network"),
    (TINY, "search", "the search takes 60 % of the cores' time", ""),
    (MANY_CORES | {"workers": 2, "whole_rate": 500_000.0}, "search", "", "--workers 16 (now 2)"),
    (IN_PYTHON | {"whole_rate": 900.0, "lane_idle": 0.95, "batch_rows": 8.0}, "search", "", "a compiled game"),
    (SLOW_WIRE | {"whole_rate": 7_600.0}, "wire", "wire-bound at 95 % of its limit, the wire alone", "--pool thread"),
    (SLOW_WIRE | {"whole_rate": 4_000.0, "batch_rows": 2.0}, "wire", "", ""),
    (PROCESSES | {"wire_cpu": 40 * US, "whole_rate": 30_000.0, "compiled": False}, "wire", "",
     "--games-per-worker 512 (now 256)"),
    (SLOW_DISK, "writer", "writing records takes 97 % of the workers' time", "--out"),
    (FEW | {"whole_rate": 9_000.0, "batch_rows": 2.0, "fill": 1.0}, "starved",
     "starved: 1 of 1 workers wait for answers to too few rows; batches hold 2 of 512 rows",
     "--games-per-worker 64 (now 4)"),
    (OWN_SEARCH, "starved", "starved: 9 of 16 workers wait on their own search, the lanes idle 50 %",
     "--workers 32 (now 16)"),
    (CROWD, "oversubscribed", "32 workers and 2 lanes on 2 cores; an evaluation takes 38.0 us of a core",
     "--workers 2 (now 32) with --games-per-worker 256"),
    (CROWD | {"idle_cores": None}, "oversubscribed", "", ""),
    ({"whole_rate": 36_000.0, "idle_cores": 0.0, "lane_idle": 0.6}, "network", "", ""),
    ({"whole_rate": 40_000.0}, "network", "network-bound at 40 % of its limit", ""),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "words", "change"), CASES)
def test_a_load_of_each_kind(changes: dict[str, Any], kind: str, words: str, change: str) -> None:
    verdict = judge(usual(**changes))
    assert verdict.kind == kind
    assert words in verdict.text
    assert change in (verdict.knob.change, verdict.knob.name) or verdict.knob.change.startswith(change)
    assert verdict.knob.expected > 0


def test_a_crowd_is_none_where_the_cores_are_not_full_of_extra_work() -> None:
    spare: dict[str, Any] = {"idle_cores": None, "whole_rate": 30_000.0}
    for changes in ({"whole_cpu": 25 * US, "idle_cores": 0.75}, {"workers": 2}, spare):
        assert judge(usual(**(CROWD | changes))).kind != "oversubscribed"
    assert judge(usual(idle_cores=None)) == judge(USUAL), "under a quota what the whole left counts as idle"


def test_what_a_setting_is_expected_to_bring() -> None:
    # Half the network's cost: 2 / (8 + 3 + 1 us) = 166,667, of which 90 % are kept.
    assert judge(USUAL).knob.expected == pytest.approx(150_000)
    assert not judge(USUAL).knob.turned, "another network is no setting to tune"
    slow = usual(max_batch=256, tried=((2, 256, 100_000.0), (2, 512, 125_000.0), (1, 512, 70_000.0)), whole_cpu=25 * US)
    # 2 / (20 + 3 + 1 us) with the slower network against 2 / (16 + 3 + 1 us).
    assert judge(slow).knob.turned == {"max_batch": 512}
    assert judge(slow).knob.expected == pytest.approx(90_000 * 24 / 20)
    # A whole that spends no more on an evaluation than the best network would is a witness against the grid.
    assert judge(replace(slow, whole_cpu=20 * US)).knob.name == "--network"
    few = usual(lanes=1, tried=((1, 512, 62_500.0), (2, 512, 125_000.0)), whole_rate=55_000.0, lane_idle=0.02)
    # One lane makes 62.5k/s, which is below what the cores can do with two: 100k/s.
    assert judge(few).knob.turned == {"lanes": 2}
    assert judge(few).knob.expected == pytest.approx(55_000 * 100 / 62.5)
    wire = judge(usual(**SLOW_WIRE, whole_rate=7_600.0))
    assert wire.knob.turned == {"pool": "thread"}
    assert wire.knob.expected == pytest.approx(1 / (1 / 7_600 - 1 / 8_000 + 1 / 100_000))


@pytest.mark.parametrize(
    ("rows", "fill", "rate"),
    [(1, 1.0, 5_000), (64, 1.0, 80_000), (512, 1.0, 125_000), (32, 0.5, 40_000), (2000, 1.0, 125_000),
     (288, 1.0, 288 / ((64 / 80_000 + 512 / 125_000) / 2))],
)  # fmt: skip
def test_rate_by_rows_of_a_batch(rows: float, fill: float, rate: float) -> None:
    """Between measured sizes it lies on the line of times."""
    assert network_rate_at(USUAL, rows, fill) == pytest.approx(rate)
