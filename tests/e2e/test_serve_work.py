"""One server and its workers in different terminals: they come and go, and the games are the same."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from grove.commands.model import Push, Rollback, push, rollback
from grove.game import load_game
from grove.inference_server.models.model_file import save_model
from grove.inference_server.models.model_folder import ModelFolder
from grove.inference_server.networks.networks import build_network
from grove.run.interrupts import STOPPED
from grove.workers.selfplay.evaluators import row_spec
from tests.support.command import Grove

NETWORK = ("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
WORK = ("--workers", 2, "--games-per-worker", 6, "--simulations", 20, "--seed", 5)
SPEC = "hex:size=4"
Eventually = Callable[[Callable[[], Any]], Any]


class Terminal:
    """`grove serve` in a subprocess; `said` is what it said until it was ready."""

    def __init__(self, grove: Grove, bind: str, *flags: object) -> None:
        self.process = grove.start("serve", "--game", SPEC, "--bind", bind, *NETWORK, *flags)
        self.said: list[str] = []
        self.endpoint = ""
        assert self.process.stdout is not None
        while not self.endpoint:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()
            self.said.append(line)
            if line.startswith("workers: grove work --connect "):
                self.endpoint = line.split()[-1]


def test_a_server_that_is_started_again_has_all_its_models_and_its_workers_have_waited(
    grove: Grove, eventually: Eventually
) -> None:
    rows, spec, folder = row_spec(load_game(SPEC)), NETWORK[1], grove.folder / "models"
    files = [grove.folder / f"{seed}.safetensors" for seed in range(4)]
    versions = [
        save_model(file, spec, rows, build_network(spec, rows, seed).state_dict()) for seed, file in enumerate(files)
    ]
    folder.mkdir()
    shutil.copy(files[0], folder)
    flags = ("--model-slot", f"best={files[1]}", "--watch-models", folder)
    server = Terminal(grove, "ipc://s", *flags)
    assert f"serving {SPEC}, model {versions[0]}, " in "".join(server.said)
    assert f"slot best: model {versions[1]}\n" in server.said
    best = {"target": str(folder), "slot": "best"}
    assert push(Push(file=str(files[2]), **best)) == 0
    assert served_models(folder) == {"default": versions[0], "best": versions[2]}
    assert rollback(Rollback(**best)) == 0
    assert served_models(folder) == {"default": versions[0], "best": versions[1]}
    assert push(Push(file=str(files[3]), **best)) == 0
    out = grove.folder / "run"
    worker = grove.start(
        *("work", "--connect", server.endpoint, "--workers", 1, "--games-per-worker", 8, "--simulations", 60),
        *("--games", 80, "--out", out),
    )
    eventually(lambda: list((out / "games").glob("*.jsonl")))
    server.process.kill()
    server.process.communicate()
    again = Terminal(grove, "ipc://s", *flags)
    assert f"slot best: model {versions[3]}\n" in again.said
    done = grove.end(worker)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert {*chain(*(record.models for record in grove.exactly(out, range(80), SPEC)))} <= {versions[0], None}
    assert grove.summary(out)["workers_restarted"] == 0  # the trees stayed
    # Both signals are there when it goes on, and the second ends it at once.
    for sent in (signal.SIGSTOP, signal.SIGHUP, signal.SIGINT, signal.SIGCONT):
        os.killpg(again.process.pid, sent)
    assert grove.end(again.process).returncode == STOPPED
    assert not list(grove.folder.glob("s*"))  # neither socket nor lock


def served_models(folder: Path) -> dict[str, str]:
    """Return the model of each slot, as the server that watches `folder` noted it."""
    return {name: served[-1].version for name, served in ModelFolder(folder).read_status().served.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_signal_before_the_server_is_ready_ends_it(grove: Grove, eventually: Eventually) -> None:
    process = grove.start("serve", "--game", SPEC, "--bind", "ipc://s", *NETWORK)
    eventually(lambda: catches(process.pid, signal.SIGHUP))
    os.kill(process.pid, signal.SIGHUP)
    done = grove.end(process)
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "ended", "")
    assert not list(grove.folder.iterdir())


def catches(process: int, number: int) -> bool:
    """Return whether a process has a handler for the signal `number`."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A server for all tests of this module that do it no harm; in the end it must have lived through all of them."""
    runner = Grove(tmp_path_factory.mktemp("server"))
    server = Terminal(runner, "tcp://127.0.0.1:*")
    yield server
    os.killpg(server.process.pid, signal.SIGINT)
    done = runner.end(server.process)
    assert (done.returncode, done.stderr) == (0, ""), done


def test_two_terminals_do_the_job_of_one(grove: Grove, server: Terminal) -> None:
    assert any(f"serving {SPEC}, model " in line for line in server.said)
    out = grove.folder / "run"
    work = ("work", "--connect", server.endpoint, *WORK, "--games", 15, "--out", out)
    grove.play(*work)
    records = grove.exactly(out, range(15), SPEC)
    summary = grove.summary(out)
    assert (summary["games"], summary["pool"]) == (15, "process")
    assert "All 15 games are there already" in grove.play(*work)
    assert {model for record in records for model in record.models} - {None} <= {
        line.split("model ")[1].split(",")[0] for line in server.said if "model " in line
    }


def test_pools_share_a_plan_come_and_go(grove: Grove, server: Terminal, eventually: Eventually) -> None:
    work = ("work", "--connect", server.endpoint, *WORK)
    # Somebody who leaves in the middle, the hard way, ...
    lost = grove.start(*work, "--games", 100_000, "--out", grove.folder / "lost")
    eventually(lambda: list((grove.folder / "lost" / "games").glob("*.jsonl")))
    lost.kill()
    lost.communicate()
    # ... does not disturb two others who share the indices 0..29.
    first = grove.start(*work, "--indices", "0:12", "--out", grove.folder / "a")
    second = grove.start(*work, "--indices", "12:30", "--out", grove.folder / "b")
    for process in (first, second):
        done = grove.end(process)
        assert (done.returncode, done.stderr) == (0, ""), done
    assert len(grove.exactly(grove.folder / "a", range(12), SPEC)) == 12
    assert len(grove.exactly(grove.folder / "b", range(12, 30), SPEC)) == 18


def test_ctrl_c_in_the_workers_terminal_is_continued(grove: Grove, server: Terminal, eventually: Eventually) -> None:
    out = grove.folder / "run"
    work = ("work", "--connect", server.endpoint, *WORK, "--out", out)
    process = grove.start(*work, "--games", 100_000)
    eventually(lambda: list((out / "games").glob("*.jsonl")))
    os.killpg(process.pid, signal.SIGINT)
    done = grove.end(process)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "are left" in done.stdout
    goal = max(record.index for record in grove.read(out)) + 5
    grove.play(*work, "--games", goal)
    grove.exactly(out, range(goal), SPEC)


def test_no_server_is_said_with_a_remedy(grove: Grove) -> None:
    line = grove.refused("work", "--connect", "hex:size=4", "--games", 2, "--out", grove.folder / "run")
    assert "hex:size=4" in line


def test_what_the_server_would_refuse_is_refused_before_a_folder_is_made(grove: Grove, server: Terminal) -> None:
    out = grove.folder / "run"
    for flags, fragment in (
        (("--worlds", 3), "worlds is 3"),
        (("--games-per-worker", 5000, "--groups", 1), "max_message_mb 64 allow; lower them or --games-per-worker"),
    ):
        line = grove.refused("work", "--connect", server.endpoint, "--games", 100_000, "--out", out, *flags)
        assert fragment in line
        assert not out.exists()
