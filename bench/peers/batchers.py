"""Batching servers behind the same closed-loop clients: Grove's own, mosec and LitServe, all with the same network.

Each client is a process that sends one message of rows, waits for its answer, and sends the next. The clients are
shared: in its slice a server is asked by all of them, while the others are stopped by SIGSTOP.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from grove.bench.core.slices import Slice, cpu_seconds
from grove.bench.core.stage import Figures, Stage
from grove.bench.peers.lane import VARIABLE, pack, unpack
from grove.bench.peers.network import Floats, PeerNetwork, check_same
from grove.common.errors import PoolError
from grove.inference_server import InferenceServer, RowSpec, ServerSettings, ZmqClient, private_endpoint
from grove.inference_server.interface.network_settings import NetworkSettings

SERVERS = ("grove", "mosec", "litserve")
WAIT_MS = 2
"""Longest wait of mosec and LitServe for a full batch; with all clients waiting it is full long before."""
_START_S = 180.0
_ANSWER_S = 20.0
_STOP_S = 3.0

Ask = Callable[[bytes], bytes]
"""Rows of a message -> what `peers_lane.pack` makes of their answers."""


@dataclass(frozen=True, kw_only=True)
class GroveServer:
    """The job of Grove's own server; plain values."""

    row_spec: RowSpec
    network: NetworkSettings
    settings: ServerSettings

    @contextmanager
    def make(self) -> Iterator[_Serving]:
        """Listen on a private endpoint."""
        from grove.inference_server.backends.backend import make_backends

        backends = make_backends(self.row_spec, self.network, self.settings.max_batch, self.settings.lanes)
        with private_endpoint() as endpoint, InferenceServer(self.row_spec, backends, self.settings) as server:
            server.wait_ready(_START_S)
            yield _Serving({"address": server.bind(endpoint), "group": 0})


@dataclass(frozen=True, kw_only=True)
class HttpServer:
    """The job of a server of another project: its process and those it starts are one group; plain values."""

    module: str
    row_spec: RowSpec
    told: dict[str, Any]
    """What `peers_lane.told` returns there, but for the port."""

    @contextmanager
    def make(self) -> Iterator[_Serving]:
        """Start it and wait until it listens; end the whole group."""
        port = free_port()
        told = json.dumps({**self.told, "rows": self.row_spec.to_dict(), "port": port})
        with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as folder:
            server = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env={**os.environ, **_MOSEC, VARIABLE: told, "MOSEC_PORT": str(port), "MOSEC_PATH": f"{folder}/mosec"},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            try:
                _wait_until_listening(server, port, said)
                yield _Serving({"address": str(port), "group": server.pid})
            finally:
                _end_group(server)


_MOSEC = {"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_LOG_LEVEL": "error", "MOSEC_TIMEOUT": "20000"}


class _Serving:
    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said

    def ready(self) -> dict[str, Any]:
        return self._said

    def measure(self, what: str, seconds: float) -> Figures:
        """Nothing to do: it serves by itself."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ClientJob:
    """The job of one client; plain values."""

    row_spec: RowSpec
    network: PeerNetwork
    dtype: str
    sizes: tuple[int, ...]
    """Rows of the messages that may be asked for."""
    addresses: dict[str, str]
    """Server -> endpoint or port."""

    @contextmanager
    def make(self) -> Iterator[_Client]:
        """Connect to every server."""
        with ExitStack() as stack:
            ways = {name: stack.enter_context(_WAYS[name](self, where)) for name, where in self.addresses.items()}
            yield _Client(self, ways)


class _Client:
    def __init__(self, job: ClientJob, ways: dict[str, Ask]) -> None:
        self._job, self._ways = job, ways
        rows = np.load(job.network.answers)["rows"]
        self._messages = {size: np.resize(rows, (size, *rows.shape[1:])).tobytes() for size in job.sizes}

    def ready(self) -> dict[str, Any]:
        """Compare the answers of every server with those of the network."""
        job = self._job
        return {
            name: check_same(job.network, partial(self._evaluate, ask), job.network.parameters, job.dtype)
            for name, ask in self._ways.items()
        }

    def measure(self, what: str, seconds: float) -> Figures:
        """Ask "SERVER ROWS" for `seconds`, one message of so many rows after the answer to the other."""
        name, size = what.split()
        ask, message, answers, began = self._ways[name], self._messages[int(size)], 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            ask(message)
            answers += 1
        return {"seconds": time.perf_counter() - began, "requests": answers}

    def _evaluate(self, ask: Ask, rows: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        step = max(self._job.sizes)  # no more, because the batches are sized for such messages
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        answers = [unpack(ask(part.tobytes()), len(part), self._job.row_spec) for part in parts]
        return np.concatenate([logits for logits, _ in answers]), np.concatenate([values for _, values in answers])


# -- ways to ask -------------------------------------------------------------------------------------------------------


@contextmanager
def _ask_grove(job: ClientJob, address: str) -> Iterator[Ask]:
    spec = job.row_spec
    client = ZmqClient(address, spec, window=1)

    def ask(message: bytes) -> bytes:
        client.submit(np.frombuffer(message, spec.observation_dtype).reshape(-1, *spec.observation_shape))
        reply = client.collect(_ANSWER_S)
        if reply is None or len(reply.failed):
            raise PoolError("Grove's server gave no answer")
        return pack(reply.logits, reply.values)

    try:
        yield ask
    finally:
        client.close()


@contextmanager
def _ask_mosec(job: ClientJob, address: str) -> Iterator[Ask]:
    with _connected(address) as post:
        yield lambda message: post("/inference", message, "application/octet-stream")


@contextmanager
def _ask_litserve(job: ClientJob, address: str) -> Iterator[Ask]:
    def ask(message: bytes) -> bytes:
        body = json.dumps({"rows": base64.b64encode(message).decode()}).encode()
        return base64.b64decode(json.loads(post("/predict", body, "application/json"))["answers"])

    with _connected(address) as post:
        yield ask


_WAYS = {"grove": _ask_grove, "mosec": _ask_mosec, "litserve": _ask_litserve}


@contextmanager
def _connected(address: str) -> Iterator[Callable[[str, bytes, str], bytes]]:
    """Yield what posts over one connection that is kept, and opened again where the server closed it between slices."""
    connection = http.client.HTTPConnection("127.0.0.1", int(address), timeout=_ANSWER_S)

    def once(path: str, body: bytes, kind: str) -> tuple[int, bytes]:
        if connection.sock is None:
            connection.connect()
            opened: Any = connection.sock
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.request("POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read()

    def post(path: str, body: bytes, kind: str) -> bytes:
        try:
            status, answer = once(path, body, kind)
        except (ConnectionError, http.client.BadStatusLine):
            connection.close()
            status, answer = once(path, body, kind)
        if status != http.client.OK:
            raise PoolError(f"the server answers {status}: {answer[:200]!r}")
        return answer

    try:
        yield post
    finally:
        connection.close()


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_listening(server: subprocess.Popen[bytes], port: int, said: Any) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)
    said.seek(0)
    words = said.read().decode(errors="replace").strip().splitlines()
    raise PoolError(f"its server did not start: {words[-1] if words else 'it said nothing'}")


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """Let the server end its processes, then end what is left of them."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGCONT)
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_S)
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


# -- the supervisor's end ----------------------------------------------------------------------------------------------


class Batcher:
    """One server behind the clients, asked with messages of one size; stopped but in its slices."""

    def __init__(self, server: Stage, group: int, clients: list[Stage], what: str) -> None:
        """`group`: the processes to stop between slices, 0 for none. `what`: "SERVER ROWS"."""
        self.name, self.message_rows = what, int(what.split()[1])
        self._group, self._clients = group, clients
        self.processes = [*server.processes, *(number for client in clients for number in client.processes)]
        """Those of the clients are shared by all servers."""
        self._signal(signal.SIGSTOP)

    def play(self, seconds: float) -> Slice:
        """Let all clients ask for one slice."""
        self._signal(signal.SIGCONT)
        used = cpu_seconds(self.processes)
        for client in self._clients:
            client.begin(self.name, seconds)
        done = [client.end(seconds) for client in self._clients]
        used = cpu_seconds(self.processes) - used
        self._signal(signal.SIGSTOP)
        requests = sum(part["requests"] for part in done)
        took = sum(part["seconds"] for part in done) / len(done)
        return Slice(took, {"requests": requests, "evaluations": requests * self.message_rows}, {}, used)

    def look_after(self) -> None:
        """Its processes say nothing between slices."""

    def _signal(self, number: signal.Signals) -> None:
        if self._group:
            os.killpg(self._group, number)
