"""The verdict on literal figures: every kind, the bounds and expectations worked out by hand."""

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


def test_bounds_of_threads_and_of_processes() -> None:
    alone = {"network": 125_000, "search": 600_000}
    in_turn = round(2 / (1 / 300_000 + 1 / 1_000_000))
    assert rates(USUAL) == {**alone, "writer": 1_000_000, "cores": 100_000, "workers": in_turn}
    assert rates(usual(threads=False)) == {
        **alone, "wire": 400_000, "writer": 2_000_000, "cores": round(2 / (24 * US)), "workers": in_turn
    }  # fmt: skip
    assert [bound.used for bound in bounds(USUAL) if bound.name == "wire"] == [False]


def test_bounds_of_a_gpu_leave_the_network_out_of_the_cores() -> None:
    assert rates(usual(network_on_cores=False))["cores"] == 500_000


def test_threads_of_a_python_game_take_turns() -> None:
    assert rates(usual(compiled=False))["search"] == 300_000
    assert rates(usual(compiled=False, threads=False))["search"] == 600_000


def test_a_game_that_waits_is_not_limited_by_cores() -> None:
    assert rates(usual(workers=8, threads=False, search_cpu=0.3 * US))["search"] == 8 * 300_000


def test_without_a_game_to_write_there_is_no_writer() -> None:
    found = rates(usual(writer_rate=None, writer_cpu=0.0))
    assert "writer" not in found
    assert found["workers"] == 600_000


def test_network_binds_shared_cores() -> None:
    verdict = judge(USUAL)
    assert (verdict.kind, verdict.lowest.name, verdict.share) == ("network", "cores", pytest.approx(0.9))
    assert verdict.text == "network-bound at 90 % of its limit: the network takes 80 % of the cores' time"
    # Half the network's cost: 2 / (8 + 3 + 1 us) = 166,667, of which 90 % are kept.
    assert verdict.knob.expected == pytest.approx(150_000)
    assert verdict.gain == pytest.approx(150_000 / 90_000)
    assert "--network" in verdict.knob.change
    assert not verdict.knob.turned, "another network is no setting to tune"


def test_network_alone_binds_on_a_gpu() -> None:
    verdict = judge(usual(network_on_cores=False, whole_rate=120_000.0))
    assert (verdict.kind, verdict.lowest.name) == ("network", "network")
    assert verdict.text == "network-bound at 96 % of its limit, the network alone"


def test_a_better_batch_cap_is_the_knob() -> None:
    slow = usual(max_batch=256, tried=((2, 256, 100_000.0), (2, 512, 125_000.0), (1, 512, 70_000.0)), whole_cpu=25 * US)
    knob = judge(slow).knob
    assert (knob.change, knob.turned) == ("--max-batch 512", {"max_batch": 512})
    # 2 / (20 + 3 + 1 us) with the slower network against 2 / (16 + 3 + 1 us).
    assert knob.expected == pytest.approx(90_000 * 24 / 20)
    assert "1.25 times as fast" in knob.model
    # A whole that spends no more on an evaluation than the best network would is a witness against the sweep.
    assert judge(replace(slow, whole_cpu=20 * US)).knob.name == "--network"


def test_more_lanes_are_the_knob_when_the_grid_says_so() -> None:
    few = usual(lanes=1, tried=((1, 512, 62_500.0), (2, 512, 125_000.0)), whole_rate=55_000.0, lane_idle=0.02)
    verdict = judge(few)
    assert (verdict.kind, verdict.knob.change, verdict.knob.turned) == ("network", "--lanes 2", {"lanes": 2})
    # One lane makes 62.5k/s, which is below what the cores can do with two: 100k/s.
    assert verdict.knob.expected == pytest.approx(55_000 * 100 / 62.5)
    gpu = judge(replace(few, network_on_cores=False, tried=((1, 512, 100_000.0), (2, 512, 125_000.0))))
    assert gpu.knob.change == "--lanes 2"
    assert gpu.knob.expected == pytest.approx(55_000 * 125 / 100)
    assert (
        judge(replace(few, tried=((1, 512, 122_000.0), (2, 512, 125_000.0)), whole_cpu=40 * US)).knob.name
        == "--network"
    )


def test_search_binds_shared_cores() -> None:
    tiny = usual(network_rate=2_000_000.0, network_cpu=1 * US, whole_rate=360_000.0, lane_idle=0.6, waiting=0.2)
    verdict = judge(tiny)
    assert (verdict.kind, verdict.lowest.name) == ("search", "cores")
    assert verdict.text == "search-bound at 90 % of its limit: the search takes 60 % of the cores' time"
    assert verdict.knob.expected == pytest.approx(2 * 360_000)


def test_too_few_workers_bind() -> None:
    many_cores = usual(cores=16, network_on_cores=False, network_rate=2e6, writer_rate=None)
    verdict = judge(replace(many_cores, workers=2, whole_rate=500_000.0))
    assert (verdict.kind, verdict.lowest.name) == ("search", "workers")
    assert (verdict.knob.change, verdict.knob.turned) == ("--workers 16 (now 2)", {"workers": 16})
    # Sixteen workers would search 4.8M/s; the network's 2M/s come first, of which 500 / 600 are kept.
    assert verdict.knob.expected == pytest.approx(2e6 * 500 / 600)


def test_a_slow_python_game_binds() -> None:
    slow = usual(compiled=False, threads=False, search_rate=500.0, search_cpu=2000 * US, whole_rate=900.0, waiting=0.1)
    verdict = judge(replace(slow, lane_idle=0.95, batch_rows=8.0))
    assert (verdict.kind, verdict.knob.name) == ("search", "a compiled game")
    assert verdict.gain == pytest.approx(10, rel=0.15)


def test_wire_binds_alone_or_by_its_share_of_the_cores() -> None:
    throttled = usual(threads=False, wire_rate=8_000.0, whole_rate=7_600.0, waiting=0.9, lane_idle=0.9, batch_rows=64.0)
    verdict = judge(throttled)
    assert verdict.text == "wire-bound at 95 % of its limit, the wire alone"
    assert verdict.knob.change.startswith("--pool thread")
    assert verdict.knob.turned == {"pool": "thread"}
    assert verdict.knob.expected == pytest.approx(1 / (1 / 7_600 - 1 / 8_000 + 1 / 100_000))
    slow = judge(usual(threads=False, wire_rate=8_000.0, whole_rate=3_200.0, waiting=0.9, lane_idle=0.9, batch_rows=64))
    assert (slow.kind, slow.knob.name) == ("wire", "--pool")
    assert slow.gain == pytest.approx(1 / (1 - 0.4 + 3_200 / 100_000)), "the wire was 40 % of the time"
    costly = judge(usual(threads=False, wire_cpu=40 * US, whole_rate=30_000.0, compiled=False))
    assert (costly.kind, costly.lowest.name) == ("wire", "cores")
    assert costly.knob.change.startswith("--games-per-worker 512 (now 256)")
    assert costly.knob.turned == {"games_per_worker": 512}
    assert costly.knob.expected == pytest.approx(30_000 * 60 / 40)


def test_wire_binds_even_when_far_below() -> None:
    assert judge(usual(threads=False, wire_rate=8_000.0, whole_rate=4_000.0, batch_rows=2.0)).kind == "wire"


def test_writer_binds() -> None:
    verdict = judge(usual(threads=False, writer_rate=10_000.0, whole_rate=18_000.0, waiting=0.05, lane_idle=0.8))
    assert (verdict.kind, verdict.lowest.name) == ("writer", "workers")
    assert verdict.text == "writer-bound at 93 % of its limit: writing records takes 97 % of the workers' time"
    assert verdict.knob.name == "--out"
    assert verdict.gain > 4


def test_starved_by_few_rows() -> None:
    # A round trip takes 4 / 9,000 s, a tenth of it search.
    few = usual(workers=1, games_per_worker=4, groups=2, wire_rows=2, whole_rate=9_000.0, waiting=0.9, lane_idle=0.5)
    few = replace(few, batch_rows=2.0, fill=1.0)
    verdict = judge(few)
    assert verdict.kind == "starved"
    assert verdict.text == "starved: 1 of 1 workers wait for answers to too few rows; batches hold 2 of 512 rows"
    assert (verdict.knob.change, verdict.knob.turned) == ("--games-per-worker 64 (now 4)", {"games_per_worker": 64})
    slower = 2 * (32 / network_rate_at(few, 32) - 2 / network_rate_at(few, 2))
    assert verdict.knob.expected == pytest.approx(16 * 9_000 / (1 + 15 * 0.1 + slower * 9_000 / 4))
    assert 9_000 < verdict.knob.expected <= verdict.lowest.rate
    tight = judge(replace(few, search_cpu=50 * US, search_rate=20_000.0))
    assert tight.knob.expected == pytest.approx(tight.lowest.rate)


def test_starved_by_own_search() -> None:
    verdict = judge(
        usual(workers=16, cores=32, network_on_cores=False, whole_rate=60_000.0, waiting=0.44, lane_idle=0.5)
    )
    assert verdict.text.startswith("starved: 9 of 16 workers wait on their own search, the lanes idle 50 %")
    assert (verdict.knob.change, verdict.knob.turned) == ("--workers 32 (now 16)", {"workers": 32})
    assert verdict.knob.expected == pytest.approx(120_000)


def test_over_subscribed() -> None:
    crowd = usual(workers=32, threads=False, whole_rate=50_000.0, whole_cpu=38 * US, games_per_worker=16)
    verdict = judge(crowd)
    assert verdict.text == (
        "CPU over-subscribed: 32 workers and 2 lanes on 2 cores; an evaluation takes 38.0 us of a core and its parts "
        "need 24.0"
    )
    assert verdict.knob.change == "--workers 2 (now 32) with --games-per-worker 256"
    assert verdict.knob.turned == {"workers": 2, "games_per_worker": 256}
    assert verdict.knob.expected == pytest.approx(2 / (24 * US))
    assert judge(replace(crowd, whole_cpu=25 * US, idle_cores=0.75)).kind != "oversubscribed", (
        "the cores are not full of extra work"
    )
    assert judge(replace(crowd, workers=2)).kind != "oversubscribed", "two workers are no crowd"


def test_cores_that_others_use_are_no_limit_of_ours() -> None:
    verdict = judge(usual(whole_rate=36_000.0, idle_cores=0.0, lane_idle=0.6))
    assert (verdict.kind, verdict.lowest.name) == ("network", "cores")
    assert verdict.lowest.rate == pytest.approx(36_000 * 22 / 20)


def test_under_a_quota_what_the_whole_left_counts_as_idle() -> None:
    hidden = judge(usual(idle_cores=None))
    assert hidden == judge(USUAL)
    crowd = usual(workers=32, threads=False, whole_rate=50_000.0, whole_cpu=38 * US, idle_cores=None)
    assert judge(crowd).kind == "oversubscribed"
    assert judge(replace(crowd, whole_rate=30_000.0)).kind != "oversubscribed", "cores are spare"


def test_far_below_without_evidence_names_the_lowest_bound() -> None:
    verdict = judge(usual(whole_rate=40_000.0))
    assert verdict.text.startswith("network-bound at 40 % of its limit")


@pytest.mark.parametrize(
    ("rows", "fill", "rate"),
    [(1, 1.0, 5_000), (64, 1.0, 80_000), (512, 1.0, 125_000), (32, 0.5, 40_000), (2000, 1.0, 125_000)],
)
def test_rate_by_rows_of_a_batch(rows: float, fill: float, rate: float) -> None:
    assert network_rate_at(USUAL, rows, fill) == pytest.approx(rate)


def test_rate_between_measured_sizes_lies_on_the_line_of_times() -> None:
    middle = (64 / 80_000 + 512 / 125_000) / 2
    assert network_rate_at(USUAL, 288) == pytest.approx(288 / middle)
