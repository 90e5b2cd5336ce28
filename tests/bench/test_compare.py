"""`grove bench compare`: its settings, its pools, and the arithmetic of its figures (its run: test_measuring.py)."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from grove.bench.core.counting import difference, total
from grove.bench.core.modes import FIXED, MODES, Asked, parse_modes, pool_plans, trees_bytes, unsuited
from grove.bench.core.probe import Probe
from grove.bench.core.report import busy_warning, print_table
from grove.bench.core.results import mean_visit_entropy
from grove.bench.core.rounds import Round, Spread, check_enough, peak_share, quiet_rounds, ratio
from grove.bench.core.rules import AlwaysWaited
from grove.bench.core.slices import Slice, cpu_seconds
from grove.bench.search import REPEATS, simulations_per_second
from grove.common.errors import PoolError, SettingError
from grove.inference_server import ServerSettings
from grove.inference_server.batching.policy import Policy
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.pool.settings import PoolSettings


def a_row(unit: str) -> dict[str, Any]:
    row: dict[str, Any] = {"mode": "local", "variant": None, "not_measured": None, "note": None, "unit": unit}
    row |= dict.fromkeys(("evaluations_per_second", "simulations_per_second"), 1.0)
    row |= dict.fromkeys(("ratio_to_direct", "ratio_low", "ratio_high", "peak_share", "cpu_us_per_evaluation"))
    return row | dict.fromkeys(("mean_batch_rows", "fill", "distinct_share", "mean_visit_entropy"))


@pytest.mark.parametrize(
    ("unit", "rates", "heads"),
    [
        ("games", {}, ["games/min"]),
        ("rounds", {"rounds_per_minute": 1200.0}, ["rounds/min"]),
        ("matches", {"matches_per_minute": 1200.0, "rounds_per_minute": 21600.0}, ["matches/min", "rounds/min"]),
    ],
)
def test_table_is_in_the_units_of_the_game(unit: str, rates: dict[str, float], heads: list[str]) -> None:
    row, out = a_row(unit), io.StringIO()
    # A mode that could not be measured has no unit.
    rows = [row | {"games_per_minute": 1200.0} | rates, dict.fromkeys(row) | {"mode": "direct", "not_measured": "why"}]
    print_table(rows, Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert [head for head in lines[0].split() if head.endswith("/min")] == heads
    assert [text in lines[1] for text in ("1,200", "21,600")] == [True, unit == "matches"]
    assert lines[2] == "direct: not measured: why"


def a_slice(evaluations: float, seconds: float = 1.0) -> Slice:
    return Slice(seconds, {"evaluations": evaluations, "simulations": evaluations}, {})


def a_round(speed: float, after: float | None = None, **modes: float) -> Round:
    probes = Probe(speed, 2 * speed, 2), Probe(after or speed, 2 * (after or speed), 2)
    return Round(probes, 1000.0 * speed, {mode: a_slice(rate * speed) for mode, rate in modes.items()})


def test_rounds_whose_probe_moved_are_dropped() -> None:
    rounds = [a_round(1.0), a_round(1.05), a_round(0.5), a_round(1.0, after=0.7), a_round(1.0)]
    assert quiet_rounds(rounds, 0.1) == [rounds[0], rounds[1], rounds[4]]
    check_enough(rounds, 0.1)
    with pytest.raises(PoolError, match="2 of 3 rounds are left and 3 are needed"):
        check_enough([rounds[0], rounds[0], rounds[2]], 0.1)


def test_ratios_pair_the_slices_of_one_round() -> None:
    rounds = [a_round(1.0, a=90, b=10), a_round(0.5, a=100, b=10), a_round(2.0, a=80, b=10)]
    assert ratio(rounds, "a", "b") == Spread(9.0, 8.0, 10.0)
    assert peak_share(rounds, "a") == Spread(0.09, 0.08, 0.1)
    assert ratio(rounds, "a", "direct") is None
    assert ratio([a_round(1.0, a=1, b=0)], "a", "b") is None


def test_counters_add_up_over_slices() -> None:
    later, earlier = {"games": 5.0, "peak_rss_mb": 90.0}, {"games": 2.0, "peak_rss_mb": 80.0}
    assert difference(later, earlier) == {"games": 3.0, "peak_rss_mb": 90.0}
    parts = [
        {"rows": 3, "sizes": [1, 2], "reasons": {"full": 1}, "epoch": "a", "peak_rss_mb": 9},
        {"rows": 4, "sizes": [0, 5], "reasons": {"full": 2, "delay": 1}, "epoch": "a", "peak_rss_mb": 8},
    ]
    assert total(parts) == {
        "rows": 7,
        "sizes": [1, 7],
        "reasons": {"full": 3, "delay": 1},
        "epoch": "a",
        "peak_rss_mb": 9,
    }


def test_modes_are_taken_once_in_their_order_and_groups_stand_for_theirs() -> None:
    assert parse_modes(" local, direct,local") == ("local", "direct")
    assert parse_modes("failed,direct") == ("python-threads", "one-position", "always-waited", "direct")
    assert parse_modes("drain,fixed")[:2] == ("drain", "full-only")
    assert set(parse_modes("all")) == set(MODES)


def asked(out: Path, *modes: str, game: str = "connect_four", **pool: int) -> Asked:
    return Asked(
        game_spec=game,
        modes=modes,
        seconds=1,
        out=out,
        seed=0,
        search=SearchSettings(simulations=8),
        pool=PoolSettings(**pool),
        network=NetworkSettings(network="resnet:blocks=1,channels=8", device="cpu"),
        server=ServerSettings(),
        probe_limit=0.1,
    )


def test_rules_differ_from_the_server_in_nothing_but_the_rule(tmp_path: Path) -> None:
    plans = pool_plans(asked(tmp_path, "server-process", *FIXED, "always-waited", workers=3))
    ours = plans.pop("server-process")
    assert ours.policy is Policy
    assert {mode: plan.policy for mode, plan in plans.items()} == {**FIXED, "always-waited": AlwaysWaited}
    assert all(replace(plan, policy=Policy, games_folder=ours.games_folder) == ours for plan in plans.values())


def test_a_mode_that_does_not_suit_the_game_says_why(tmp_path: Path) -> None:
    blob = asked(tmp_path, "python-threads", "drain", game="blob:players=4,cards=5")
    assert pool_plans(blob).keys() == {"drain"}
    assert "cannot hide information" in unsuited(blob, "python-threads")


def test_pools_that_do_not_fit_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each = sum(trees_bytes(plan) for plan in pool_plans(asked(tmp_path, "drain")).values())
    monkeypatch.setattr("grove.bench.core.modes.free_memory_bytes", lambda: int(1.5 * each))
    pool_plans(asked(tmp_path, "drain"))
    with pytest.raises(SettingError, match="modes is 'drain,1ms', but their trees need"):
        pool_plans(asked(tmp_path, "drain", "1ms"))


def test_our_rule_is_set_beside_every_other() -> None:
    row = a_row("games") | {"games_per_minute": None, "ours_by_rule": None}
    ruled = row | {"mode": "drain", "ours_by_rule": 1.25, "ours_by_rule_low": 1.1, "ours_by_rule_high": 1.5}
    out = io.StringIO()
    print_table([row | {"mode": "server-process"}, ruled], Console(file=out, width=250))
    head, ours, drain = out.getvalue().splitlines()
    assert head.endswith("ours by rule  lowest..highest")
    assert ours.endswith("-")
    assert drain.endswith("1.25x       1.10..1.50")


def test_a_busy_machine_is_warned_of() -> None:
    assert busy_warning(0.0) == ""
    assert "other programs used 99.0 of" in busy_warning(99.0)


def test_processor_time_counts_children_and_the_living_alone() -> None:
    burn = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(3 * 10**7)); input()'])"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE) as child:
        while cpu_seconds([child.pid]) <= psutil.Process(child.pid).cpu_times().user + 0.05:
            time.sleep(0.02)
        assert cpu_seconds([os.getpid()]) >= cpu_seconds([child.pid])
        child.communicate(b"\n")
    assert cpu_seconds([child.pid]) == 0.0


def test_entropy_of_visits() -> None:
    assert mean_visit_entropy([[[[0, 50], [1, 50]], None, [[3, 9]]]]) == pytest.approx(math.log(2) / 2)
    assert mean_visit_entropy([[None]]) is None


def test_the_search_alone_can_be_measured() -> None:
    rates = simulations_per_second("connect_four", 4)
    assert len(rates) == REPEATS
    assert min(rates) > 0
