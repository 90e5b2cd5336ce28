"""The self-play loop of one worker, driven through a real pipe as its supervisor would."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grove.common.errors import ChannelError
from grove.game import load_game
from grove.inference_server import Answer, Client
from grove.mcts import SearchSettings
from grove.workers.selfplay.control_pipe import ControlPipe
from grove.workers.selfplay.evaluators import HashEvaluator, row_spec
from grove.workers.selfplay.job import WorkerJob
from grove.workers.selfplay.worker import MOST_FAILURES, Worker
from tests.support.data_tools import read_log

WAIT_S = 200.0


class Watched(HashEvaluator):
    """The test evaluator, with a note of what the worker did; can fail rows."""

    def __init__(self, fail_every_row: bool = False) -> None:
        super().__init__(row_spec(load_game("connect_four")))
        self.windows: list[int] = []
        self.outstanding = self.most_outstanding = self.most_rows = 0
        self.closed = False
        self._fail = fail_every_row

    def submit(self, observations: np.ndarray, legal: Any = None, model: str = "default") -> int:
        self.outstanding += 1
        self.most_outstanding = max(self.most_outstanding, self.outstanding)
        self.most_rows = max(self.most_rows, len(observations))
        return super().submit(observations)

    def collect(self, timeout_s: float) -> Answer | None:
        answer = super().collect(timeout_s)
        self.outstanding -= answer is not None
        if answer is not None and self._fail:
            return answer._replace(failed=np.arange(len(answer.values), dtype=np.int32))
        return answer

    def set_window(self, tickets: int) -> None:
        self.windows.append(tickets)

    def close(self) -> None:
        self.closed = True


class Supervised:
    """A worker in a thread and the supervisor's end of its pipe."""

    def __init__(self, folder: Path, evaluator: Client, games: int, groups: int, simulations: int) -> None:
        mine, theirs = multiprocessing.Pipe()
        self.pipe = ControlPipe(mine)
        self.log = folder / "worker-000.jsonl"
        job = WorkerJob(
            worker=0,
            game_spec="connect_four",
            run_seed=1,
            search=SearchSettings(simulations=simulations),
            games=games,
            groups=groups,
            log_path=str(self.log),
        )
        self.worker = Worker(job, load_game("connect_four"), evaluator, ControlPipe(theirs))
        self.fault: BaseException | None = None
        self._theirs = theirs
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except ChannelError as error:
            self.fault = error
        finally:
            self._theirs.close()

    def wait_for(self, kind: str) -> list[Any]:
        """Return the values of the next message of `kind`."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            message = self.pipe.receive(0.1)
            if message is not None and message[0] == kind:
                return message[1:]
            assert message is None or message[0] != "stop", f"the worker ended before it said {kind}"
        raise AssertionError(f"the worker never said {kind}")

    def finished(self, count: int) -> list[int]:
        """Return the next `count` finished indices; all of them must be in the log by then."""
        indices: list[int] = []
        while len(indices) < count:
            indices += self.wait_for("finished")[0]
            assert set(indices) <= {record.index for record in read_log(self.log)[0]}
        return indices

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Any]:
    started: list[Supervised] = []

    def start(evaluator: Client, games: int = 6, groups: int = 2, simulations: int = 8) -> Supervised:
        started.append(Supervised(tmp_path, evaluator, games, groups, simulations))
        return started[-1]

    yield start
    for one in started:
        one.pipe.close()
        one.join()


def test_a_worker_plays_what_it_is_given_and_ends_when_told(supervise: Any) -> None:
    evaluator = Watched()
    worker = supervise(evaluator)
    (thread,) = worker.wait_for("ready")
    assert thread > 0
    worker.pipe.send("indices", [4, 1, 7])
    worker.pipe.send("indices", list(range(10, 20)))
    assert sorted(worker.finished(13)) == [1, 4, 7, *range(10, 20)]
    worker.pipe.send("stop")
    (totals,) = worker.wait_for("bye")
    worker.join()
    assert totals["games"] == 13
    assert totals["in_progress"] == 0
    assert totals["evaluations"] > 13 * 8
    assert totals["simulations"] > 13 * 8
    assert totals["peak_rss_mb"] > 10
    assert evaluator.closed


def test_never_more_rows_than_games_and_no_more_tickets_than_groups(supervise: Any) -> None:
    evaluator = Watched()
    worker = supervise(evaluator, games=6, groups=3)
    worker.pipe.send("indices", list(range(20)))
    worker.finished(20)
    worker.pipe.send("stop")
    worker.join()
    assert evaluator.most_rows <= 2
    assert evaluator.most_outstanding <= 3
    assert evaluator.windows[-1] == 0  # idle: nobody waits for it
    assert max(evaluator.windows) == 3


def test_a_pause_stops_the_search_and_keeps_the_trees(supervise: Any) -> None:
    evaluator = Watched()
    worker = supervise(evaluator, simulations=400)
    worker.pipe.send("indices", list(range(200)))
    worker.wait_for("stats")
    worker.pipe.send("pause")
    (still,) = worker.wait_for("rest")
    assert evaluator.outstanding == 0
    assert still["in_progress"] > 0
    assert worker.pipe.receive(1.0) is None  # not a word, not a game
    worker.pipe.send("resume")
    worker.finished(1)
    worker.pipe.send("stop")
    assert worker.wait_for("bye")[0]["evaluations"] > still["evaluations"]


def test_every_pause_is_answered_also_one_right_after_a_resume(supervise: Any) -> None:
    worker = supervise(Watched(), simulations=400)
    worker.pipe.send("indices", list(range(200)))
    worker.pipe.send("pause")
    worker.wait_for("rest")
    for _ in range(50):  # as a rule both are read in one turn
        worker.pipe.send("resume")
        worker.pipe.send("pause")
        worker.wait_for("rest")


def test_a_worker_whose_supervisor_is_gone_ends_with_its_games_on_disk(supervise: Any) -> None:
    evaluator = Watched()
    worker = supervise(evaluator)
    worker.pipe.send("indices", list(range(100_000, 100_400)))
    worker.finished(3)
    worker.pipe.close()
    worker.join()
    assert evaluator.closed
    records, problems = read_log(worker.log)
    assert len(records) >= 3
    assert not problems


def test_a_worker_gives_up_when_every_answer_fails(supervise: Any) -> None:
    evaluator = Watched(fail_every_row=True)
    worker = supervise(evaluator)
    worker.pipe.send("indices", [0, 1])
    worker.join()
    assert isinstance(worker.fault, ChannelError)
    assert str(MOST_FAILURES + 1) in str(worker.fault)
    assert evaluator.closed
    assert not worker.log.exists()
