"""Grove from Python: what `import grove` gives is what the commands do."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import grove
from grove import PositionCollector, RowSpec, ServerConnection
from grove.common.errors import MessageError, PoolError, RecordError, SettingError
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.models.model_file import open_model
from grove.records.record import GameRecord

SMALL = {"network": "mlp:layers=1,width=16", "device": "cpu", "dtype": "fp32", "compile": "off"}
ROWS = RowSpec(
    game="of my own", observation_shape=(5,), observation_dtype="uint8", num_actions=7, num_players=3, zero_sum=False
)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=250, check=False
    )


def test_import_loads_nothing_and_names_are_all_there(tmp_path: Path) -> None:
    done = python(tmp_path, "-c", "import grove, sys; print(*sorted(sys.modules))")
    assert not {"torch", "numba", "numpy", "zmq", "tyro"} & set(done.stdout.split())
    assert all(getattr(grove, name) is not None for name in grove.__all__)
    assert set(grove.__all__) <= set(dir(grove))
    with pytest.raises(AttributeError, match="has no attribute 'selfpaly'"):
        _ = grove.selfpaly  # type: ignore[attr-defined]
    assert (Path(grove.__file__).parent / "py.typed").exists()


# -- playing and reading ---------------------------------------------------------------------------------------------

SCRIPT = """
import grove

class Race:
    num_players, num_actions, max_moves = 2, 2, 8
    observation_shape, observation_dtype = (2,), "uint8"

    def __init__(self, seed):
        self.places, self.moves = [0, 0], 0

    def legal_actions(self):
        return [0] if self.moves < 2 else [0, 1]

    def step(self, action):
        self.places[self.to_play()] += action + 1
        self.moves += 1

    def to_play(self):
        return self.moves % 2

    def utility(self):
        first = [place >= 4 for place in self.places]
        return [1.0 if first[0] else 0.0, 1.0 if first[1] else 0.0] if any(first) else None

    def observe(self):
        return self.places if self.to_play() == 0 else self.places[::-1]

print("main runs")
"""
PLAY = """
summary = grove.selfplay(
    Race, games=4, simulations=6, workers=2, evaluator="test", seed=3, out="run", quiet=True
)
print(summary.games, summary.folder, summary.figures["games"])
"""


def test_a_script_plays_its_own_game_and_reads_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT + "if __name__ == '__main__':\n" + PLAY.replace("\n", "\n    "))
    done = python(tmp_path, "script.py")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.splitlines()[0] == "main runs"
    assert done.stdout.splitlines()[-1] == "4 run 4"
    games = sorted(grove.read_games(tmp_path / "run"), key=lambda game: game.record.index)
    assert [game.record.index for game in games] == [0, 1, 2, 3]
    with pytest.raises(SettingError, match="not imported unasked; give --rules script"):
        next(games[0].positions())
    found: dict[str, type] = {}
    exec(SCRIPT, found)
    rules = grove.game.adapter.AdaptedGame(found["Race"], "script.py:Race")
    for game in games:
        race = found["Race"](0)
        for position in game.positions(rules):
            assert position.observation.tolist() == race.observe()
            assert position.legal.tolist() == race.legal_actions()
            assert position.seat == race.to_play()
            assert position.searched == (len(position.legal) > 1)
            assert position.visits.sum() == pytest.approx(1)
            assert set(np.flatnonzero(position.visits)) <= set(position.legal)
            result = game.record.utilities
            assert position.value.tolist() == [result[position.seat], result[1 - position.seat]]
            race.step(position.action)
        assert race.utility() == game.record.utilities


def test_a_script_without_main_guard_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT + PLAY)
    done = python(tmp_path, "script.py")
    assert done.returncode == 1
    assert "put the call under `if __name__ == \"__main__\":`" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_script_without_main_guard_plays_games_that_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import grove\nprint('once')\n" + PLAY.replace("Race", "'connect_four'"))
    done = python(tmp_path, "script.py")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "once\n4 run 4\n"), done


STOPPED = """
import os, signal, threading, time
from pathlib import Path
import grove

def stop():
    while not any(log.stat().st_size for log in Path("run/games").glob("*.jsonl")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=stop).start()
try:
    grove.selfplay("connect_four", games=10**7, simulations=8, evaluator="test", out="run", quiet=True)
except KeyboardInterrupt:
    print("stopped", len(list(grove.read_games("run"))) > 0)
"""


def test_control_c_ends_a_run_and_its_games_are_saved(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(STOPPED)
    done = python(tmp_path, "script.py")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "stopped True\n"), done


def test_wrong_calls_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="did you mean simulations"):
        grove.selfplay("connect_four", simulatons=5, out=tmp_path / "run")
    with pytest.raises(SettingError, match="games is 0"):
        grove.selfplay("connect_four", games=0, out=tmp_path / "run")
    with pytest.raises(SettingError, match="the known games are"), grove.serve("conect_four"):
        pass
    with pytest.raises(SettingError, match="served only with keys"), grove.serve(ROWS, bind="tcp://0.0.0.0:7447"):
        pass
    faults: list[Exception] = []

    def play() -> None:
        try:
            grove.selfplay("connect_four")
        except SettingError as error:
            faults.append(error)

    thread = threading.Thread(target=play)
    thread.start()
    thread.join()
    assert "main thread" in str(faults[0])
    assert not (tmp_path / "run").exists()


def test_positions_of_a_record_that_does_not_fit_the_rules_are_refused() -> None:
    record = GameRecord(
        game="connect_four", index=0, seed=1, moves=[0], visits=[None], values=[None], models=[None],
        utilities=[0.0, 0.0], status="finished", seconds=0.1,
    )  # fmt: skip
    with pytest.raises(RecordError, match="is recorded as finished, but after its moves it is not over"):
        next(grove.RecordedGame(record).positions())


# -- serving ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with grove.serve(ROWS, max_batch=64, **SMALL) as endpoint:
        yield endpoint


@pytest.fixture
def client(endpoint: str) -> Iterator[ServerConnection]:
    with grove.connect(endpoint, window=3, max_rows=20) as client:
        yield client


def observations(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, 5)).astype(np.uint8)


def direct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    network = open_model(NetworkSettings(network=SMALL["network"]), ROWS).network
    logits, values = network(torch.from_numpy(rows))
    return logits.numpy(), values.numpy()


def test_a_connection_evaluates_any_number_of_rows_with_requests_in_flight(client: ServerConnection) -> None:
    assert client.rows == ROWS
    first, second = observations(20, 1), observations(7, 2)
    tickets = [client.submit(first), client.submit(second)]
    many = observations(133)
    for found, wanted in zip(client.evaluate(many), direct(many), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    answers = [client.collect(60), client.collect(60)]
    assert [answer.ticket for answer in answers if answer] == tickets
    assert client.collect(0) is None
    for answer, rows in zip(answers, (first, second), strict=True):
        assert answer is not None
        np.testing.assert_allclose(answer.values, direct(rows)[1], atol=1e-5)
    assert client.evaluate(observations(0))[1].shape == (0, 3)
    assert client.evaluate(np.ones((2, 5), np.float64))[0].shape == (2, 7)
    with pytest.raises(MessageError, match="hold values that are no uint8"):
        client.evaluate(np.full((1, 5), 0.5))
    with pytest.raises(MessageError, match=r"rows are uint8\[4\]"):
        client.evaluate(np.zeros((1, 4), np.uint8))


def test_a_server_that_cannot_start_says_why() -> None:
    why = "could not start: model absent"
    with pytest.raises(PoolError, match=why), grove.serve(ROWS, model="absent.safetensors", **SMALL):
        pass


def test_a_collector_makes_one_batch_of_the_requests_of_many_threads(client: ServerConnection) -> None:
    collector, rows = PositionCollector(client), observations(9, 4)
    rows[:] = np.unpackbits(np.arange(9, dtype=np.uint8)[:, None], axis=1)[:, 3:]  # nine different ones
    found: dict[tuple[str, int], np.ndarray] = {}
    lock = threading.Lock()

    def ask(number: int) -> None:
        def keep(kind: str, output: np.ndarray) -> None:
            with lock:
                found[kind, number] = output

        collector.request_policy(rows[number], lambda logits: keep("policy", logits))
        collector.request_value(rows[number], lambda values: keep("value", values))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collector.process_batches() == 18
    assert collector.process_batches() == 0
    done = collector.statistics
    assert (done.requests, done.rows, done.batches, done.largest_batch) == (18, 9, 1, 9)
    logits, values = direct(rows)
    for number in range(9):
        np.testing.assert_allclose(found["policy", number], logits[number], atol=1e-5)
        np.testing.assert_allclose(found["value", number], values[number], atol=1e-5)


def test_a_collectors_callbacks_may_ask_and_its_faults_lose_nothing(client: ServerConnection) -> None:
    asked: list[int] = []

    class Faulty:
        def evaluate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            asked.append(len(rows))
            if len(asked) == 1:
                raise OSError("not now")
            return client.evaluate(rows)

    collector, found = PositionCollector(Faulty()), []
    row = observations(1)[0]
    collector.request_value(row, lambda values: collector.request_policy(row, found.append))
    with pytest.raises(OSError, match="not now"):
        collector.process_batches()
    assert [collector.process_batches() for _ in range(3)] == [1, 1, 0]
    assert found[0].shape == (7,)
