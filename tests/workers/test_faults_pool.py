"""Servers and workers that are killed, stopped or hang under a pool: the same games come out, once each."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from grove.common.errors import PoolError
from grove.inference_server import ServerSettings
from grove.mcts import SearchSettings
from grove.records.record import read_folder
from grove.workers.pool.fork_server import SERVERS
from grove.workers.pool.plan import PoolPlan, Sizes
from grove.workers.pool.pool import Pool
from grove.workers.selfplay.game_scheduler import GameScheduler
from tests.grove.test_bad_input import SOUND
from tests.support.pool_tools import games, indices, plan, pump_until

pytestmark = pytest.mark.slow

COUNT = 40
SPEC = "hex:size=4"
HANG_S = 2.0
"""Seconds of silence allowed to the one child that is stopped, and to no other."""


def served(folder: Path, pool: str, **changes: object) -> PoolPlan:
    """Return the plan of games that do not depend on the company of their rows: every run plays the same ones."""
    settings = {
        "evaluator": "server",
        "server": ServerSettings(max_batch=16, deterministic=True),
        "search": SearchSettings(simulations=80),
    }
    return plan(folder, pool, **settings | changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[int]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with Pool(served(folder, "thread"), GameScheduler(range(COUNT))) as pool:
        pool.start()
        pump_until(pool, lambda: not pool.scheduler.left)
    return games(folder)


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_a_killed_server_is_replaced_and_the_games_are_those_of_an_undisturbed_run(
    tmp_path: Path, kind: str, undisturbed: dict[int, list[int]]
) -> None:
    with Pool(served(tmp_path, kind), GameScheduler(range(COUNT))) as pool:
        pool.start()
        model = pool.server_ready["model"]
        pump_until(pool, lambda: pool.scheduler.finished >= 3)
        os.kill(pool.server_pids[0], signal.SIGKILL)
        pump_until(pool, lambda: not pool.scheduler.left)
        assert pool.server_restarted == 1
        assert (pool.restarted, pool.lost) == (0, 0)  # worker processes kept their trees
        assert pool.problems[0] == "the inference server is started again: it was killed"
        assert re.fullmatch(r"the inference server computes again, \d+\.\d s after its end", pool.problems[1])
        assert len(pool.problems) == 2
    assert indices(tmp_path) == list(range(COUNT))
    assert games(tmp_path) == undisturbed
    assert {m for record in read_folder(tmp_path) for m in record.models} - {None} == {model}


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_hangs_is_replaced_and_one_that_dies_with_its_fork_server_too(
    tmp_path: Path, ends: signal.Signals
) -> None:
    with Pool(served(tmp_path, "process"), GameScheduler(range(100_000))) as pool:
        pool.start()
        pump_until(pool, lambda: pool.scheduler.finished >= 3)
        first, fork_server = pool.server_pids[0], SERVERS.pid
        os.kill(first, signal.SIGSTOP)
        pool.server.silence.hang_s = HANG_S
        pump_until(pool, lambda: pool.server_restarted)
        assert "said nothing for" in pool.problems[0]
        pump_until(pool, lambda: "computes again" in pool.problems[-1])
        assert (pool.server_pids[0] != first, SERVERS.pid) == (True, fork_server)
        assert fork_server is not None
        os.kill(fork_server, ends)
        os.kill(pool.server_pids[0], signal.SIGKILL)
        before = pool.scheduler.finished
        pump_until(pool, lambda: pool.server_restarted == 2 and pool.scheduler.finished > before)
        assert fork_server != SERVERS.pid
    found = indices(tmp_path)
    assert len(found) == len(set(found))


def test_a_server_that_hangs_before_it_is_ready_is_not_waited_for(tmp_path: Path) -> None:
    with Pool(served(tmp_path, "process"), GameScheduler(range(COUNT))) as pool:

        def stop_it() -> bool:
            for process in pool.server_pids:
                os.kill(process, signal.SIGSTOP)
            pool.server.silence.hang_s = HANG_S
            return False

        with pytest.raises(PoolError, match="said nothing for"):
            pool.start(stop_it)


def test_a_server_that_keeps_dying_is_given_up_with_its_last_error_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grove.workers.pool.supervision.MOST_RESTARTS", 1)
    slow = served(tmp_path, "process", search=SearchSettings(simulations=20_000))  # no game ends in between
    with Pool(slow, GameScheduler(range(COUNT))) as pool:
        pool.start()
        pump_until(pool, lambda: pool.ready == 2)
        os.kill(pool.server_pids[0], signal.SIGKILL)
        pump_until(pool, lambda: pool.server_restarted)
        os.kill(pool.server_pids[0], signal.SIGKILL)
        with pytest.raises(PoolError, match="server is given up after 1 restarts: it was killed"):
            pump_until(pool, lambda: False)
    assert [line for line in pool.problems if "given up" in line] == []


def test_a_worker_that_hangs_is_ended_and_replaced(tmp_path: Path) -> None:
    with Pool(plan(tmp_path, search=SearchSettings(simulations=60)), GameScheduler(range(COUNT))) as pool:
        pool.start()
        pump_until(pool, lambda: pool.scheduler.finished >= 3 and pool.ready == 2)
        os.kill(pool.worker_pids[0], signal.SIGSTOP)
        pool.workers[0].silence.hang_s = HANG_S
        pump_until(pool, lambda: not pool.scheduler.left)
        assert pool.lost == 1
        assert re.fullmatch(
            r"worker 0 is started again: it said nothing for \d+ s and used no processor time", pool.problems[0]
        )
    assert indices(tmp_path) == list(range(COUNT))


def test_a_search_thread_that_hangs_ends_its_process_and_the_games_are_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = f"""
import pathlib
import time

MARK, CALLS = pathlib.Path({str(tmp_path / "hung")!r}), [0]


def hang_once():
    CALLS[0] += 1
    if CALLS[0] > 3000 and not MARK.exists():
        MARK.touch()
        time.sleep(1e6)
"""
    game = SOUND.replace("        self.moves += 1\n", "        self.moves += 1\n        hang_once()\n") + hangs
    (tmp_path / "hanging_sticks.py").write_text(game)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "games"
    folder.mkdir()
    job = plan(folder, "thread", game_spec="hanging_sticks:Sticks", sizes=Sizes(workers=2, games=2))
    with Pool(job, GameScheduler(range(200))) as pool:
        pool.start()
        pump_until(pool, (tmp_path / "hung").exists)
        for process in pool.workers:  # whoever of them hangs: the process is the same
            process.silence.hang_s = HANG_S
        pump_until(pool, lambda: not pool.scheduler.left)
        assert pool.server_restarted == 1
        assert "hangs: it said nothing for" in pool.problems[0]
    assert (tmp_path / "hung").exists()
    assert indices(folder) == list(range(200))


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_draining_plays_what_is_begun_and_starts_nothing(tmp_path: Path, kind: str) -> None:
    with Pool(plan(tmp_path, kind, search=SearchSettings(simulations=200)), GameScheduler(range(100_000))) as pool:
        pool.start()
        pump_until(pool, lambda: pool.scheduler.finished >= 3 and pool.totals().get("in_progress", 0) == 8)
        before = pool.scheduler.finished
        pool.drain()
        pump_until(pool, lambda: pool.drained)
        assert pool.totals()["in_progress"] == 0
        assert before + 8 <= pool.scheduler.finished <= before + 12  # those in progress; four more wait to be begun
        assert pool.problems == []
    assert len(indices(tmp_path)) == pool.scheduler.finished


def test_draining_waits_for_a_server_that_is_about_to_be_started_again(tmp_path: Path) -> None:
    with Pool(served(tmp_path, "process"), GameScheduler(range(100_000))) as pool:
        pool.start()
        pump_until(pool, lambda: pool.scheduler.finished >= 3)
        os.kill(pool.server_pids[0], signal.SIGKILL)
        pump_until(pool, lambda: pool.problems)
        pool.drain()
        pump_until(pool, lambda: pool.drained)
        assert pool.server_restarted == 1
        assert pool.totals()["in_progress"] == 0
    assert len(indices(tmp_path)) == pool.scheduler.finished
