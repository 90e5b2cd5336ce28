"""Two hosts: server and workers in network namespaces of their own, joined by a line that is cut and restored."""

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
from tests.e2e.test_selfplay import lines
from tests.support.command import Grove

SERVER, WORKER = "10.213.77.1", "10.213.77.2"
NETWORK = ("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
SPEC = "hex:size=4"
NAMES = [f"grove-{side}{os.getpid()}" for side in "sw"]
"""Network namespaces of the server's and of the workers' host."""
ENDS = [f"g{side}{os.getpid()}"[:15] for side in "sw"]
CUT_S = 4.0
"""Longer than the three pings after which the server counts a client as lost; no outcome depends on it."""

Eventually = Callable[[Callable[[], Any]], Any]


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, capture_output=True, text=True, timeout=60)


@pytest.fixture
def line() -> Iterator[Callable[[str], None]]:
    """Join two hosts; gives what sets the line `up` or `down`."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need Linux, root and the command `ip` (package iproute2)")
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", ENDS[0], "netns", NAMES[0], "type", "veth", "peer", "name", ENDS[1], "netns", NAMES[1])
        for name, end, address in zip(NAMES, ENDS, (SERVER, WORKER), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield lambda state: ip("-n", NAMES[0], "link", "set", ENDS[0], state)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    finally:
        for name in NAMES:
            subprocess.run(("ip", "netns", "del", name), check=False, capture_output=True, timeout=60)


def test_a_line_that_is_cut_and_restored_costs_no_game(
    grove: Grove, line: Callable[[str], None], eventually: Eventually
) -> None:
    there, here = (("ip", "netns", "exec", name) for name in NAMES)
    out, folder, bind = grove.folder / "run", grove.folder / "keys", f"tcp://{SERVER}:7447"
    assert keys(Keys(folder=str(folder))) == 0
    server = grove.start("serve", "--game", SPEC, "--bind", bind, "--keys", folder, *NETWORK, inside=there)
    assert server.stdout is not None
    while "workers: grove work" not in (said := server.stdout.readline()):
        assert said, server.communicate()
    work = ("work", "--connect", bind, "--keys", folder / "clients" / "worker", "--workers", 1, "--out", out)
    work += ("--games-per-worker", 8, "--simulations", 40, "--games")
    worker = grove.start(*work, 100_000, inside=here)
    eventually(lambda: lines(out))
    line("down")
    time.sleep(CUT_S)
    assert worker.poll() is None
    before = lines(out)
    line("up")
    eventually(lambda: lines(out) > before + 8)  # more than what was on its way when the line was cut
    os.killpg(worker.pid, signal.SIGINT)
    assert grove.end(worker).returncode == 0
    goal = max(record.index for record in grove.read(out)) + 5
    done = grove.end(grove.start(*work, goal, inside=here))
    assert (done.returncode, done.stderr) == (0, ""), done
    grove.exactly(out, range(goal), SPEC)
    assert grove.summary(out)["workers_restarted"] == 0
    os.killpg(server.pid, signal.SIGINT)
    assert grove.end(server).returncode == 0
