"""`grove bench limit` on real cases, each built to bind on one side, on a quiet machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grove.bench.core import slices
from grove.bench.core.peak import Peak, PeakJob
from grove.bench.limit import limit
from grove.bench.limit.limit import LimitAsked, pool_plan, run_beside
from grove.bench.limit.verdict import Verdict, judge
from grove.common.machine import usable_cores
from grove.game import load_game
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.pool.settings import PoolSettings
from grove.workers.selfplay.evaluators import row_spec
from tests.support.measuring_tools import content, exits

TINY = NetworkSettings(network="mlp:layers=1,width=8", device="cpu", dtype="fp32", compile="off")
SERVER = ServerSettings()
SLOW = "tests.bench_check.slow_parts"
WARM_S = 0.6
"""Seconds to warm a pool for: longer than the server takes to report at all."""
CROWD = 8 * usable_cores()
"""Workers that are far too many."""
BUSY = usable_cores() / 4
"""Cores in use by other programs from which a verdict need not see that any is idle."""


@pytest.fixture(scope="module")
def peak() -> Iterator[Peak]:
    """The tiny network alone, which all cases but the huge one share."""
    job = PeakJob(row_spec=row_spec(load_game("connect_four")), network=TINY, max_batch=512, thorough=True)
    with Peak(job) as alone:
        alone.wait_ready()
        yield alone


@pytest.fixture
def judged(peak: Peak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measure one round of short slices of a load, and judge it."""
    monkeypatch.setattr(limit, "ROUNDS", 1)
    monkeypatch.setattr(slices, "WARM_S", WARM_S)

    def measure(game: str, simulations: int, seconds: float = 1.5, **pool: Any) -> Verdict:
        asked = LimitAsked(
            game_spec=game,
            seconds=seconds,
            out=tmp_path,
            seed=1,
            search=SearchSettings(simulations=simulations),
            pool=PoolSettings(**pool),
            network=TINY,
            server=SERVER,
        )
        said: list[str] = []
        found = run_beside(asked, pool_plan(asked), peak, said.append)
        verdict = judge(found.measured)
        print(verdict, found.measured, *said, sep="\n")
        measured = found.measured
        measure.others = measured.cores - measured.available_cores  # type: ignore[attr-defined]
        assert verdict.knob.expected > 0
        return verdict

    return measure


def test_a_tiny_network_leaves_it_to_the_search(judged: Any) -> None:
    assert judged("connect_four", 400, workers=2, games_per_worker=512, pool="thread").kind == "search"


def test_one_worker_with_few_games_starves_the_network(judged: Any) -> None:
    """Unless others use the cores, idle ones must be seen; a whole that burns them itself is no excuse."""
    for _ in range(5):
        verdict = judged("connect_four", 50, workers=1, games_per_worker=2, groups=1, pool="thread")
        if verdict.kind == "starved" or judged.others < BUSY:
            break
    else:
        pytest.skip(f"in each of five tries other programs used more than {BUSY:.1f} of the cores")
    assert verdict.kind == "starved"
    assert verdict.knob.turned == {"games_per_worker": 32}


def test_many_more_workers_than_cores_are_over_subscribed(judged: Any) -> None:
    verdict = judged("connect_four", 50, workers=CROWD, games_per_worker=64, groups=2, pool="process")
    assert verdict.kind == "oversubscribed"
    assert verdict.knob.turned["workers"] == usable_cores()


def test_a_game_in_python_binds_by_its_search(judged: Any) -> None:
    verdict = judged(
        "tests.support.naive_games:NaiveConnectFour", 4, 2.5, workers=2, games_per_worker=8, groups=2, pool="process"
    )
    assert (verdict.kind, verdict.knob.name) == ("search", "a compiled game")


def test_a_throttled_wire_binds(judged: Any) -> None:
    verdict = judged(f"{SLOW}:SlowWire", 50, workers=2, games_per_worker=64, groups=2, pool="process")
    assert (verdict.kind, verdict.knob.name) == ("wire", "--pool")


def test_a_slow_disk_binds(judged: Any) -> None:
    verdict = judged(f"{SLOW}:SlowDisk", 8, 3.0, workers=2, games_per_worker=64, groups=2, pool="process")
    assert (verdict.kind, verdict.knob.name) == ("writer", "--out")


def test_a_huge_network_binds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "WARM_S", WARM_S)
    out = tmp_path / "out"
    status = exits(
        *("bench", "limit", "--network", "mlp:layers=2,width=3072", "--compile", "off", "--dtype", "fp32"),
        *("--device", "cpu", "--max-batch", 64, "--simulations", 10, "--games-per-worker", 128, "--pool", "thread"),
        *("--seconds", 3, "--out", out),
    )
    assert status == 0
    found = content(out / "limit.json")
    assert found["verdict"]["kind"] == "network"
    kept = sum(done["kept"] for done in found["rounds"])
    assert kept >= limit.ROUNDS or len(found["rounds"]) == 2 * limit.ROUNDS
