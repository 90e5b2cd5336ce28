"""What real measurements should find on a quiet machine: `make bench-check`. `make test` never asserts such things."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from grove.bench.core.modes import FIXED, MODES
from grove.bench.core.rounds import LEAST_ROUNDS
from grove.common.machine import usable_cores
from tests.support.measuring_tools import MLP, content, exits

WORKERS = usable_cores() + 1


def rows_by_mode(out: Path) -> dict[str, dict[str, Any]]:
    return {row["mode"]: row for row in content(out / "results.json")}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All modes but the compiled forms of `direct`, which take minutes to compile."""
    out = tmp_path_factory.mktemp("compare") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grove.bench.core.modes.compiler_fault", lambda: "no compiler")
        assert (
            exits(
                *(
                    "bench",
                    "compare",
                    "--network",
                    "resnet:blocks=1,channels=16",
                    "--device",
                    "cpu",
                    "--simulations",
                    8,
                ),
                *("--workers", WORKERS, "--games-per-worker", 64, "--modes", "all", "--seconds", 40, "--out", out),
            )
            == 0
        )
    return rows_by_mode(out)


def test_many_positions_a_call_beat_one_at_a_time(compared: dict[str, dict[str, Any]]) -> None:
    for mode in ("local", "server-thread", "server-process"):
        assert compared[mode]["ratio_low"] > 1, mode
    assert compared["one-position"]["ratio_to_direct"] < compared["server-process"]["ratio_to_direct"]


def test_every_mode_searched_by_its_own_rule(compared: dict[str, dict[str, Any]]) -> None:
    for mode in MODES:
        row = compared[mode]
        assert row["rounds"] >= LEAST_ROUNDS
        assert 0 < row["distinct_share"] <= 1
        assert row["peak_share"] <= 1.1
    for mode in ("direct", "local", "server-thread", "server-process"):
        assert 0 < compared[mode]["mean_visit_entropy"] < math.log(7)
        assert compared[mode]["model_version"] == compared["server-process"]["model_version"]
    reasons = {mode: row["dispatch_reasons"] for mode, row in compared.items() if row["dispatch_reasons"]}
    assert reasons["server-process"]["all_blocked"] + reasons["server-process"]["full"] > 0
    assert reasons["drain"]["free"] > 0
    assert all(reasons[mode]["all_blocked"] == 0 for mode in {*FIXED} | {"always-waited"})
    assert compared["one-position"]["mean_batch_rows"] <= WORKERS, "one position a worker"


def test_a_game_takes_about_what_its_moves_take(compared: dict[str, dict[str, Any]]) -> None:
    assert 7 * 8 / 2 < compared["direct"]["simulations_per_game"] <= 42 * 8
    for row in (compared[mode] for mode in MODES):
        assert row["games_per_minute_low"] < row["games_per_minute"] < row["games_per_minute_high"]


def test_a_sweep_recognises_the_larger_point(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        exits(
            *("bench", "sweep", *MLP, "--simulations", 8, "--workers", 1, "--lanes", 1, "--max-batch", 512, "--quick"),
            *("--modes", "server-process", "--over-workers", "off", "--over-max-batch", "off", "--out", out),
            *("--over-games-per-worker", "2,512", "--games-per-worker", 2),
        )
        == 0
    )
    few, many = content(out / "results.json")
    assert few["evaluations_per_second_high"] < many["evaluations_per_second_low"]
    assert few["mean_batch_rows"] <= 2
    assert few["distinct_share"] > 0


def test_a_profile_adds_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    load = ("--games", 16, "--workers", 1, "--simulations", 8, "--lanes", 1, "--seconds", 6)
    assert exits("profile", *MLP, *load, "--pool", "process", "--out", out) == 0
    found = content(out / "profile.json")
    part = found["workers"]
    named = {stage["stage"]: stage for stage in part["stages"]}
    assert {"ask", "step", "observe", "pack", "send", "wait", "unpack", "tell", "play", "record", "start"} <= set(named)
    assert part["adds_up"]
    assert sum(stage["seconds"] for stage in named.values()) == pytest.approx(part["sum_seconds"])
    assert found["server"]["threads"].keys() == {"zmq-channel", "lane-0"}
    assert found["interpreter"]["io_thread_cpu_share"] > 0


def test_a_worker_that_was_killed_comes_back_to_full_batches(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        exits(
            *("bench", "soak", "--minutes", 0.5, "--every", 2, "--faults", "worker,server,all-at-once", "--out", out),
            *("--game", "hex:size=4", "--simulations", 20, "--workers", 2, "--games-per-worker", 8, *MLP),
        )
        == 0
    )
    found = content(out / "soak.json")
    assert found["starts"] >= 3
    assert {row["name"]: row["recovered"] > 0 for row in found["faults"]} == dict.fromkeys(
        ("worker", "server", "all-at-once"), True
    )


def test_tuning_finds_more_games_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    out = tmp_path / "out"
    assert (
        exits(
            *("tune", *MLP, "--simulations", 8, "--workers", 1, "--games-per-worker", 2, "--groups", 1, "--lanes", 1),
            *(
                "--pool",
                "process",
                "--knobs",
                "games-per-worker,groups",
                "--minutes",
                1,
                "--name",
                "mine",
                "--out",
                out,
            ),
        )
        == 0
    )
    results = content(out / "results.json")
    assert results["gain"]["low"] > 1
    assert results["preset"] == str(tmp_path / "grove" / "presets" / "mine.toml")
