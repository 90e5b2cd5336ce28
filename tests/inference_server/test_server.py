"""The server as a whole: processes that die, endpoints in use, what may be imported, and the real network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grove.common.errors import PoolError, ServerGone, SettingError
from grove.inference_server import InferenceServer, ServerSettings, ZmqClient, private_endpoint
from tests.support.arithmetic_network import SPEC, ArithmeticBackend, compute, random_rows

Eventually = Callable[[Callable[[], Any]], Any]
ROOT = Path(__file__).resolve().parents[2]

WORKER = """
    import sys
    from tests.support.arithmetic_network import SPEC, compute, random_rows
    from grove.inference_server import ZmqClient
    client = ZmqClient(sys.argv[1], SPEC, window=2)
    print("ready", flush=True)
    for step in range(50):
        rows = random_rows(SPEC, 16, step)
        client.submit(rows)
        answer = client.collect(60)
        assert (answer.logits == compute(SPEC, rows)[0]).all()
    client.close()
    assert "torch" not in sys.modules
"""


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_neither_the_room_nor_its_client_imports_torch() -> None:
    code = """
        import sys
        import grove.inference_server.channels.zmq_client
        import grove.inference_server.interface.network_settings
        assert not {"torch", "numba"} & set(sys.modules)
    """
    process = run_python(code)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors


def test_several_processes_are_served() -> None:
    with private_endpoint() as endpoint, InferenceServer(SPEC, [ArithmeticBackend(SPEC)]) as server:
        server.bind(endpoint)
        workers = [run_python(WORKER, endpoint) for _ in range(3)]
        for worker in workers:
            _, errors = worker.communicate(timeout=100)
            assert worker.returncode == 0, errors
        stats = server.stats()
        assert stats["requests"] == 150
        assert stats["rows"] == 150 * 16
        assert stats["clients"] == 0
        assert not stats["errors"]


def test_a_killed_process_is_not_waited_for_long(eventually: Eventually) -> None:
    backend = ArithmeticBackend(SPEC)
    settings = ServerSettings(max_delay_us=100_000, idle_after_ms=1, forget_after_s=1)
    with private_endpoint() as endpoint, InferenceServer(SPEC, [backend], settings) as server:
        server.bind(endpoint)
        victim = run_python(
            """
            import sys, time
            from tests.support.arithmetic_network import SPEC, random_rows
            from grove.inference_server import ZmqClient
            client = ZmqClient(sys.argv[1], SPEC, window=2)
            client.submit(random_rows(SPEC, 4, 0))
            client.collect(100)
            print("answered", flush=True)
            time.sleep(100)
            """,
            endpoint,
        )
        assert victim.stdout is not None
        assert victim.stdout.readline() == "answered\n"
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        client = server.connect(1)
        for seed in range(3):
            client.submit(random_rows(SPEC, 4, seed))
            answer = client.collect(60)
            assert answer is not None
            assert np.array_equal(answer.logits, compute(SPEC, random_rows(SPEC, 4, seed))[0])
        reasons = server.stats()["reasons"]
        assert reasons["delay"] <= 2  # its own one, and one that waited for it in vain
        assert reasons["all_blocked"] >= 1
        eventually(lambda: server.stats()["clients"] == 1)


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
def test_an_endpoint_in_use_is_refused_and_its_owner_unharmed(kind: str) -> None:
    with private_endpoint() as private, InferenceServer(SPEC, [ArithmeticBackend(SPEC)]) as owner:
        endpoint = owner.bind(private if kind == "ipc" else "tcp://127.0.0.1:*")
        intruder = InferenceServer(SPEC, [ArithmeticBackend(SPEC)])
        with intruder, pytest.raises(SettingError, match="another process listens there"):
            intruder.bind(endpoint)
        client = ZmqClient(endpoint, SPEC, window=1)
        client.submit(random_rows(SPEC, 4, 0))
        assert client.collect(60) is not None
        client.close()


@pytest.mark.parametrize(
    ("endpoint", "fragment"),
    [
        ("tcp://0.0.0.0:5555", "only with keys"),
        ("tcp://*:5555", "only with keys"),
        ("tcp://10.1.2.3:5555", "only with keys"),
        ("tcp://127.evil.example:5555", "only with keys"),
        ("tcp://127.0.0.1", "must read"),
        ("tcp://127.0.0.1:99999", "must read"),
        ("udp://127.0.0.1:5", "must read"),
        ("ipc://", "must read"),
        ("ipc:///tmp/" + "x" * 120, "shorten it"),
        ("ipc:///nonexistent/folder/s", "folder you can write"),
    ],
)
def test_endpoints_that_cannot_be_served(endpoint: str, fragment: str) -> None:
    with InferenceServer(SPEC, [ArithmeticBackend(SPEC)]) as server, pytest.raises(SettingError, match=fragment):
        server.bind(endpoint)


def test_the_private_folder_is_private_and_removed() -> None:
    with private_endpoint() as endpoint:
        folder = Path(endpoint.removeprefix("ipc://")).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        with InferenceServer(SPEC, [ArithmeticBackend(SPEC)]) as server:
            server.bind(endpoint)
            assert len(list(folder.iterdir())) == 3
        assert [path.name for path in folder.iterdir()] == ["grove.lock"]
    assert not folder.exists()


def test_nothing_is_left_behind() -> None:
    before = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    with (
        private_endpoint() as endpoint,
        InferenceServer(SPEC, [ArithmeticBackend(SPEC), ArithmeticBackend(SPEC)]) as server,
    ):
        server.bind(endpoint)
        client = ZmqClient(endpoint, SPEC, window=1)
        client.submit(random_rows(SPEC, 4, 0))
        assert client.collect(60) is not None
        client.close()
    server.close()
    assert (set(threading.enumerate()), len(os.listdir("/proc/self/fd"))) == before
    with pytest.raises(ServerGone):
        server.connect()
    with pytest.raises(ServerGone):
        server.bind("tcp://127.0.0.1:*")


def test_a_backend_that_cannot_warm_is_told() -> None:
    class Broken(ArithmeticBackend):
        def warm(self) -> None:
            raise MemoryError("no room")

    with InferenceServer(SPEC, [Broken(SPEC)]) as server, pytest.raises(PoolError, match="no room"):
        server.wait_ready(60)


def test_a_second_batch_is_launched_while_the_first_is_computed(eventually: Eventually) -> None:
    backend = ArithmeticBackend(SPEC, depth=2)
    with InferenceServer(SPEC, [backend]) as server:
        first, second = server.connect(1), server.connect(1)
        backend.may_run.clear()  # neither can be finished before both were launched
        first.submit(random_rows(SPEC, 32, 0))
        second.submit(random_rows(SPEC, 32, 1))
        eventually(lambda: len(backend.batches) == 2)
        backend.may_run.set()
        for seed, client in enumerate((first, second)):
            answer = client.collect(60)
            assert np.array_equal(answer.logits, compute(SPEC, random_rows(SPEC, 32, seed))[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_batch", 0), ("max_delay_us", -1), ("max_window", 1000), ("lanes", True), ("idle_after_ms", 1.5)],
)
def test_settings_out_of_range(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"{name} is {value}"):
        ServerSettings(**{name: value})
