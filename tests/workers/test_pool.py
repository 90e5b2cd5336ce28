"""The pool in this very process: what it survives, what it gives up, and how it says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from grove.common.errors import PoolError, StorageError
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.pool.pool import Pool
from grove.workers.selfplay.game_scheduler import GameScheduler
from tests.support.pool_tools import indices, plan, pump_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_every_game_is_played_once(tmp_path: Path, kind: str) -> None:
    with Pool(plan(tmp_path, kind), GameScheduler(range(30))) as pool:
        pool.start()
        pump_until(pool, lambda: not pool.scheduler.left)
        assert pool.pool_kind == kind
    assert indices(tmp_path) == list(range(30))
    assert pool.totals()["games"] == 30
    assert sum(pool.games_by_worker()) == 30
    assert pool.problems == []


def test_killed_workers_are_replaced_and_no_game_is_lost_or_played_twice(tmp_path: Path) -> None:
    with Pool(plan(tmp_path, search=SearchSettings(simulations=100)), GameScheduler(range(60))) as pool:
        pool.start()
        for kill in range(3):
            pump_until(pool, lambda goal=10 + 10 * kill: pool.scheduler.finished >= goal)
            os.kill(pool.processes[kill % 2], signal.SIGKILL)
            pump_until(pool, lambda goal=kill + 1: pool.restarted >= goal)
        pump_until(pool, lambda: not pool.scheduler.left)
        assert pool.restarted == len(pool.problems) == 3
    assert indices(tmp_path) == list(range(60))


def test_a_worker_that_only_ever_fails_is_given_up_and_the_run_ends_with_its_words(
    tmp_path: Path,
) -> None:
    wrong = plan(tmp_path, game_spec="nonsense")
    with Pool(wrong, GameScheduler(range(6))) as pool:
        pool.start()
        with pytest.raises(PoolError, match=r"no worker is left.*given up after 1 restarts: .*nonsense"):
            pump_until(pool, lambda: False)
    assert pool.restarted == 2


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_games_that_cannot_be_written_end_the_run_at_once(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "games"
    folder.write_text("a file where the logs shall be")
    with Pool(plan(folder, kind), GameScheduler(range(6))) as pool:
        pool.start()
        with pytest.raises(StorageError, match=r"cannot write .*choose another folder"):
            pump_until(pool, lambda: False)
    assert pool.restarted == 0


def test_a_server_that_cannot_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    wrong = plan(tmp_path, evaluator="server", network=NetworkSettings(network="nonsense"))
    with Pool(wrong, GameScheduler(range(3))) as pool, pytest.raises(PoolError, match="no network has that name"):
        pool.start()


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_pause_rests_all_workers_and_a_resume_goes_on(tmp_path: Path, kind: str) -> None:
    slow = plan(tmp_path, kind, evaluator="server", search=SearchSettings(simulations=200))
    with Pool(slow, GameScheduler(range(40))) as pool:
        pool.start()
        pump_until(pool, lambda: pool.totals().get("evaluations", 0) > 0)
        pool.pause()
        pump_until(pool, lambda: pool.at_rest)
        before = pool.totals()["evaluations"]
        for _ in range(10):
            pool.pump(0.05)
        assert pool.totals()["evaluations"] == before
        pool.resume()
        pump_until(pool, lambda: pool.scheduler.finished >= 10)
    assert len(indices(tmp_path)) == len(set(indices(tmp_path)))


def test_stopping_in_mid_run_ends_every_process_and_keeps_what_is_finished(tmp_path: Path) -> None:
    pool = Pool(plan(tmp_path, evaluator="server"), GameScheduler(range(100_000)))
    pool.start()
    pump_until(pool, lambda: pool.scheduler.finished > 5)
    processes = pool.processes
    pool.stop()
    pool.stop()
    assert not any(psutil.pid_exists(pid) for pid in processes)
    assert set(indices(tmp_path)) == pool.scheduler._done
