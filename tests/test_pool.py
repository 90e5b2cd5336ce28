"""The pool in this very process: what it survives, what it gives up, and how it says so."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.errors import PoolError
from inference_server import ServerSettings
from inference_server.network_settings import NetworkSettings
from mcts import SearchSettings
from workers.index_book import IndexBook
from workers.plan import PoolPlan, Sizes
from workers.pool import Pool
from workers.records import read_folder

LIMIT_S = 60.0
NETWORK = NetworkSettings(network="mlp:layers=1,width=16", device="cpu", dtype="fp32", compile="off")
Eventually = Callable[[Callable[[], Any]], Any]


def plan(folder: Path, pool: str = "process", **changes: Any) -> PoolPlan:
    settings: dict[str, Any] = {
        "game_spec": "hex:size=4",
        "run_seed": 1,
        "games_folder": folder,
        "search": SearchSettings(simulations=16),
        "network": NETWORK,
        "server": ServerSettings(max_batch=32),
        "evaluator": "test",
        "pool": pool,
        "thread_sizes": Sizes(workers=2, games=4),
        "process_sizes": Sizes(workers=2, games=4),
    }
    return PoolPlan(**settings | changes)


def pump_until(pool: Pool, condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        pool.pump(0.05)


def indices(folder: Path) -> list[int]:
    return sorted(record.index for record in read_folder(folder))


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_every_game_is_played_once(tmp_path: Path, kind: str) -> None:
    with Pool(plan(tmp_path, kind), IndexBook(range(30))) as pool:
        pool.start()
        pump_until(pool, lambda: not pool.book.left)
        assert pool.pool_kind == kind
    assert indices(tmp_path) == list(range(30))
    assert pool.totals()["games"] == 30
    assert sum(pool.games_by_worker()) == 30
    assert pool.problems == []


def test_killed_workers_are_replaced_and_no_game_is_lost_or_played_twice(tmp_path: Path) -> None:
    with Pool(plan(tmp_path, search=SearchSettings(simulations=100)), IndexBook(range(60))) as pool:
        pool.start()
        for kill in range(3):
            pump_until(pool, lambda goal=10 + 10 * kill: pool.book.finished >= goal)
            os.kill(pool.processes[kill % 2], signal.SIGKILL)
            pump_until(pool, lambda goal=kill + 1: pool.restarted >= goal)
        pump_until(pool, lambda: not pool.book.left)
        assert pool.restarted == len(pool.problems) == 3
    assert indices(tmp_path) == list(range(60))


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_worker_that_only_ever_fails_is_given_up_and_the_run_ends_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("workers.worker_life.MOST_RESTARTS", 2)
    folder = tmp_path / "games"
    folder.write_text("a file where the logs shall be")
    with Pool(plan(folder, kind), IndexBook(range(6))) as pool:
        pool.start()
        with pytest.raises(PoolError, match=r"no worker is left.*given up after 2 restarts: cannot write"):
            pump_until(pool, lambda: False)
    assert pool.restarted == 2 * 2


def test_a_killed_server_ends_the_run_with_one_line(tmp_path: Path) -> None:
    with Pool(plan(tmp_path, evaluator="server"), IndexBook(range(100_000))) as pool:
        pool.start()
        pump_until(pool, lambda: pool.book.finished > 3)
        os.kill(pool.processes[-1], signal.SIGKILL)
        with pytest.raises(PoolError, match="the inference server has ended"):
            pump_until(pool, lambda: False)
    assert len(indices(tmp_path)) == len(set(indices(tmp_path))) >= 3


def test_a_server_that_cannot_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    wrong = plan(tmp_path, evaluator="server", network=NetworkSettings(network="nonsense"))
    with Pool(wrong, IndexBook(range(3))) as pool, pytest.raises(PoolError, match="no network has that name"):
        pool.start()


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_pause_rests_all_workers_and_a_resume_goes_on(tmp_path: Path, kind: str) -> None:
    slow = plan(tmp_path, kind, evaluator="server", search=SearchSettings(simulations=200))
    with Pool(slow, IndexBook(range(40))) as pool:
        pool.start()
        pump_until(pool, lambda: pool.totals().get("evaluations", 0) > 0)
        pool.pause()
        pump_until(pool, lambda: pool.at_rest)
        before = pool.totals()["evaluations"]
        for _ in range(10):
            pool.pump(0.05)
        assert pool.totals()["evaluations"] == before
        pool.resume()
        pump_until(pool, lambda: pool.book.finished >= 10)
    assert len(indices(tmp_path)) == len(set(indices(tmp_path)))


def test_stopping_in_mid_run_ends_every_process_and_keeps_what_is_finished(tmp_path: Path) -> None:
    pool = Pool(plan(tmp_path, evaluator="server"), IndexBook(range(100_000)))
    pool.start()
    pump_until(pool, lambda: pool.book.finished > 5)
    processes = pool.processes
    pool.stop()
    pool.stop()
    assert not any(psutil.pid_exists(pid) for pid in processes)
    assert set(indices(tmp_path)) == pool.book._done


def test_nobody_spins_while_a_dead_worker_waits_for_its_restart(tmp_path: Path) -> None:
    one = plan(tmp_path, process_sizes=Sizes(workers=1, games=2), search=SearchSettings(simulations=400))
    with Pool(one, IndexBook(range(500))) as pool:
        pool.start()
        for restarts in range(2):
            pump_until(pool, lambda goal=restarts: pool.ready and pool.restarted >= goal)
            os.kill(pool.processes[0], signal.SIGKILL)
            pump_until(pool, lambda: not pool.ready)
        # The second restart is due in half a second: until then there is nothing to do.
        pumps = 0
        while pool.restarted < 2:
            pool.pump(0.1)
            pumps += 1
            assert pumps < 500
