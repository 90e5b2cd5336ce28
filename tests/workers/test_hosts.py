"""Two hosts: server and workers in network namespaces of their own, joined by a line that is cut, slow and lossy."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from grove.commands.keys import Keys, keys
from tests.conftest import Grove
from tests.e2e.test_selfplay import lines

SERVER, WORKER = "10.213.77.1", "10.213.77.2"
NETWORK = ("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
SPEC = "hex:size=4"
MANY = 100_000
"""Games of a run that is still under way when the line is cut."""
CUT_S = 4.0
"""Longer than the three pings after which the server counts a client as lost; no outcome depends on it."""

Eventually = Callable[[Callable[[], Any]], Any]


def run(*command: str) -> None:
    """Run a command of the system. Raises CalledProcessError with what it said."""
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)


class Line:
    """A pair of network interfaces, one in each namespace."""

    def __init__(self) -> None:
        self.server, self.worker = f"grove-s{os.getpid()}", f"grove-w{os.getpid()}"
        self._ends = f"gs{os.getpid()}"[:15], f"gw{os.getpid()}"[:15]

    def open(self) -> None:
        (near, far), names = self._ends, (self.server, self.worker)
        for name in names:
            run("ip", "netns", "add", name)
        run("ip", "link", "add", near, "netns", self.server, "type", "veth", "peer", "name", far, "netns", self.worker)
        for name, end, address in zip(names, self._ends, (SERVER, WORKER), strict=True):
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", end)
            run("ip", "-n", name, "link", "set", end, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")

    def set(self, state: str) -> None:
        run("ip", "-n", self.server, "link", "set", self._ends[0], state)

    def disturb(self, *how: str) -> None:
        """Disturb what the server sends."""
        run("tc", "-n", self.server, "qdisc", "add", "dev", self._ends[0], "root", "netem", *how)

    def close(self) -> None:
        for name in (self.server, self.worker):
            subprocess.run(("ip", "netns", "del", name), check=False, capture_output=True, timeout=20)


@pytest.fixture
def line() -> Iterator[Line]:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need Linux, root and the command `ip` (package iproute2)")
    line = Line()
    try:
        line.open()
    except subprocess.CalledProcessError as error:
        line.close()
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    yield line
    line.close()


class Hosts:
    """`grove serve` on one host, `grove work` on the other."""

    def __init__(self, grove: Grove, line: Line) -> None:
        self._grove, self._line = grove, line
        self.out = grove.folder / "run"
        folder = grove.folder / "keys"
        assert keys(Keys(folder=str(folder))) == 0
        bind = f"tcp://{SERVER}:7447"
        inside = ("ip", "netns", "exec", line.server)
        self.server = grove.start(
            "serve", "--game", SPEC, "--bind", bind, "--keys", folder, *NETWORK, inside=inside
        )  # fmt: skip
        assert self.server.stdout is not None
        while "workers: grove work" not in (said := self.server.stdout.readline()):
            assert said, self.server.communicate()
        self._work = ("work", "--connect", bind, "--keys", folder / "clients" / "worker", "--workers", 1,
                      "--games-per-worker", 8, "--simulations", 40, "--out", self.out)  # fmt: skip

    def work(self, games: int) -> subprocess.Popen[str]:
        return self._grove.start(*self._work, "--games", games, inside=("ip", "netns", "exec", self._line.worker))

    def finish(self, worker: subprocess.Popen[str], games: int) -> None:
        """All games are there, once each, and no worker had to be started again."""
        self.end(worker)
        self._grove.exactly(self.out, range(games), SPEC)
        os.killpg(self.server.pid, signal.SIGINT)
        assert self._grove.end(self.server).returncode == 0

    def end(self, worker: subprocess.Popen[str]) -> None:
        """Wait for the end of a run in which no worker had to be started again."""
        done = self._grove.end(worker)
        assert (done.returncode, done.stderr) == (0, ""), done
        assert self._grove.summary(self.out)["workers_restarted"] == 0


def test_a_line_that_is_cut_and_restored_costs_no_game(grove: Grove, line: Line, eventually: Eventually) -> None:
    hosts = Hosts(grove, line)
    worker = hosts.work(MANY)
    eventually(lambda: lines(hosts.out))
    line.set("down")
    time.sleep(CUT_S)
    assert worker.poll() is None
    before = lines(hosts.out)
    line.set("up")
    eventually(lambda: lines(hosts.out) > before + 8)  # more than what was on its way when the line was cut
    os.killpg(worker.pid, signal.SIGINT)
    hosts.end(worker)
    goal = max(record.index for record in grove.read(hosts.out)) + 5
    hosts.finish(hosts.work(goal), goal)


def test_a_slow_and_lossy_line_costs_no_game(grove: Grove, line: Line) -> None:
    try:
        line.disturb("delay", "10ms", "5ms", "loss", "2%")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"this system cannot disturb a line (tc netem): {getattr(error, 'stderr', error)}")
    hosts = Hosts(grove, line)
    hosts.finish(hosts.work(8), 8)
