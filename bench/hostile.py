"""Messages and connections that mean harm, and what they cost honest clients.

    python -m bench.hostile 1000000        # that many fuzzed messages at a served network; then the table below
    python -m bench.hostile 0 5 3          # no fuzzing; slices of 5 s, 3 rounds (the default)

The table: rows/s of two honest worker processes over the wire alone (a network that takes no time, so that the channel
binds), undisturbed and while another process attacks, in interleaved slices. `flood` is that attack, for tests and
other measurements too.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgpack
import numpy as np
import psutil
import zmq

from bench.limit_stage import Figures, Stage
from bench.limit_wire import NullBackend, Wire, WireClient, WireServer
from common.errors import PoolError
from game import load_game
from inference_server import InferenceServer, RowSpec, ServerSettings, ZmqClient, private_endpoint, wire
from inference_server.keys import ClientKeys
from mcts import SearchSettings
from workers.evaluators import row_spec

Message = list[bytes]
Random = np.random.Generator

SENDER = ("hostile", 1)
SILENT = 200
"""Connections that say nothing, opened by the kind `silent`."""
_WINDOW, _ROWS = 4, 8
_CONNECT_S = 5.0
_EACH = 100
"""Messages of one connection; below what the server reads of one sender before it stops listening for a while."""


def hello(spec: RowSpec, epoch: int = SENDER[1]) -> Message:
    """Return a HELLO that is accepted."""
    said = wire.Hello(spec, _WINDOW, _ROWS, "float32")
    return [wire.pack_header(wire.HELLO, (SENDER[0], epoch)), wire.pack_hello(said)]


def rows(spec: RowSpec, request: int, count: int = 2) -> Message:
    """Return a request that is accepted."""
    return [wire.pack_header(wire.ROWS, SENDER, request, 0, count), bytes(count * spec.row_bytes)]


def _ragged(spec: RowSpec, random: Random) -> Message:
    legal = np.array([0, 1, 2], np.int64), random.integers(0, spec.num_actions, 2, np.int32)
    header = wire.pack_header(wire.ROWS, SENDER, int(random.integers(1 << 40)), 0, 2, wire.RAGGED)
    return [header, bytes(2 * spec.row_bytes), *wire.pack_legal(legal)]


def _any(spec: RowSpec, random: Random) -> Message:
    """Return one of the messages of an honest client."""
    number = int(random.integers(1 << 40))
    return (hello(spec), rows(spec, number), _ragged(spec, random), [wire.pack_header(wire.WINDOW, SENDER, rows=3)])[
        random.integers(4)
    ]


def _random_bytes(spec: RowSpec, random: Random) -> Message:
    return [random.bytes(int(random.integers(0, 300))) for _ in range(random.integers(1, 4))]


def _changed_bytes(spec: RowSpec, random: Random) -> Message:
    frames = [bytearray(frame) for frame in _any(spec, random)]
    for frame in frames:
        if frame:
            frame[random.integers(len(frame))] = random.integers(256)
    return [bytes(frame) for frame in frames]


def _truncated(spec: RowSpec, random: Random) -> Message:
    frames = _any(spec, random)
    last = frames[-1]
    return frames[: random.integers(1, len(frames) + 1)] if random.integers(2) else [*frames[:-1], last[:-1]]


def _wrong_counts(spec: RowSpec, random: Random) -> Message:
    numbers = [int(number) for number in random.choice([0, 1, 3, 1 << 20, 1 << 40, (1 << 63) - 1], 3)]
    return [wire.pack_header(wire.ROWS, SENDER, numbers[0], numbers[1], numbers[2]), bytes(2 * spec.row_bytes)]


def _wrong_version(spec: RowSpec, random: Random) -> Message:
    return [msgpack.packb((int(random.integers(2, 9)), wire.HELLO, *SENDER, 0, 0, 0, 0)), b""]


def _unknown_kind(spec: RowSpec, random: Random) -> Message:
    return [wire.pack_header(int(random.integers(6, 99)), SENDER)]


def _replayed(spec: RowSpec, random: Random) -> Message:
    return rows(spec, int(random.integers(3)))


def _many_frames(spec: RowSpec, random: Random) -> Message:
    return [wire.pack_header(wire.ROWS, SENDER, 1), *[b"x"] * int(random.integers(5, 60))]


def _new_lives(spec: RowSpec, random: Random) -> Message:
    return hello(spec, int(random.integers(1 << 40)))


def _beyond_window(spec: RowSpec, random: Random) -> Message:
    return rows(spec, int(random.integers(1 << 40)), _ROWS)


def _oversized(spec: RowSpec, random: Random) -> Message:
    """Return frames beyond what any request of `spec` may have; the connection ends."""
    return [wire.pack_header(wire.ROWS, SENDER, 1, 0, 1), bytes(1 << 25)]


MESSAGES: dict[str, Callable[[RowSpec, Random], Message]] = {
    "random-bytes": _random_bytes,
    "changed-bytes": _changed_bytes,
    "truncated": _truncated,
    "wrong-counts": _wrong_counts,
    "wrong-version": _wrong_version,
    "unknown-kind": _unknown_kind,
    "replayed": _replayed,
    "many-frames": _many_frames,
    "new-lives": _new_lives,
    "beyond-window": _beyond_window,
}
"""Wrong or unasked-for messages by kind; `flood` knows `oversized`, `slow`, `silent` and `half-open` too."""
KINDS = (*MESSAGES, "oversized", "slow", "silent", "half-open")


class Attacker:
    """Connections to one server, all of them ended when the context is left."""

    def __init__(self, endpoint: str, spec: RowSpec, keys: ClientKeys | None = None, seed: int = 0) -> None:
        """`keys` let its ZeroMQ connections in, when the server asks for them."""
        self._endpoint, self._spec, self._keys = endpoint, spec, keys
        self._random = np.random.default_rng(seed)
        self._stack = ExitStack()
        self._context = self._stack.enter_context(zmq.Context())
        self.sent: dict[str, int] = dict.fromkeys(KINDS, 0)
        """Messages (or connections) by kind."""

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def burst(self, kind: str, count: int) -> None:
        """Send `count` messages of a kind over one new connection, after a HELLO, reading what is answered.

        `slow` reads nothing; `silent` and `half-open` open that many connections instead and keep them.
        """
        if kind in ("silent", "half-open"):
            for _ in range(count):
                self._stack.enter_context(self._half_open(b"\xff" if kind == "half-open" else b""))
        elif kind == "slow":
            dealer = self._stack.enter_context(self._context.socket(zmq.DEALER))
            self._send(dealer, (rows(self._spec, number, _ROWS) for number in range(count)), reads=False)
        else:
            make = MESSAGES.get(kind, _oversized)
            with self._context.socket(zmq.DEALER) as dealer:
                self._send(dealer, (make(self._spec, self._random) for _ in range(count)), reads=True)
        self.sent[kind] += count

    def _send(self, dealer: zmq.Socket[bytes], messages: Iterator[Message], reads: bool) -> None:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.SNDTIMEO, 1000)  # a server that ended the connection takes nothing more for a while
        if self._keys is not None:
            self._keys.lock(dealer)
        dealer.connect(self._endpoint)
        try:
            dealer.send_multipart(hello(self._spec))
            for message in messages:
                dealer.send_multipart(message)
                while reads and wire.has_message(dealer):
                    dealer.recv_multipart()
            if reads:  # so that all of it was read: an end of the connection would throw the rest away
                dealer.send_multipart([wire.pack_header(wire.ASK, SENDER)])
                _await_kind(dealer, wire.SERVED)
        except zmq.Again:
            return

    @contextmanager
    def _half_open(self, first: bytes) -> Iterator[None]:
        scheme, _, address = self._endpoint.partition("://")
        family = socket.AF_UNIX if scheme == "ipc" else socket.AF_INET
        host, _, port = address.rpartition(":")
        with socket.socket(family) as plain:
            plain.settimeout(_CONNECT_S)
            _connect(plain, address if scheme == "ipc" else (host, int(port)))
            plain.sendall(first)
            yield


def _connect(plain: socket.socket, address: str | tuple[str, int]) -> None:
    """Connect, also when the queue of a local listener is full at first: that refuses at once instead of waiting."""
    deadline = time.monotonic() + _CONNECT_S
    while True:
        try:
            plain.connect(address)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _await_kind(dealer: zmq.Socket[bytes], kind: int) -> None:
    """Read until an answer of that kind, or for a second."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline and dealer.poll(100):
        if wire.unpack_header(dealer.recv_multipart()[0]).kind == kind:
            return


def flood(  # noqa: PLR0913
    endpoint: str,
    row_spec: RowSpec,
    kinds: Sequence[str],
    seconds: float,
    *,
    per_second: float = 0.0,
    keys: ClientKeys | None = None,
    seed: int = 0,
) -> dict[str, int]:
    """Attack the server at `endpoint` with `kinds` in turn; return the messages or connections sent, by kind.

    `per_second`: messages a second, 0 = as many as go. Connections that say nothing or read nothing stay to the end.
    """
    ends = time.monotonic() + seconds
    with Attacker(endpoint, row_spec, keys, seed) as attacker:
        for kind in (kind for kind in ("silent", "half-open") if kind in kinds):
            attacker.burst(kind, SILENT)
        if "slow" in kinds:
            attacker.burst("slow", 4 * _EACH)
        active = [kind for kind in kinds if kind in MESSAGES or kind == "oversized"]
        while active and time.monotonic() < ends:
            for kind in active:
                began = time.monotonic()
                attacker.burst(kind, 1 if kind == "oversized" else _EACH)
                pause = _EACH / per_second - (time.monotonic() - began) if per_second else 0.0
                time.sleep(max(min(pause, ends - time.monotonic()), 0))
        time.sleep(max(ends - time.monotonic(), 0))
        return attacker.sent


# What it costs


RATES = (1_000.0, 10_000.0, 0.0)
"""Wrong messages a second; 0 = as many as the attacker can send."""
_FUZZ_S = 5.0


@dataclass(frozen=True, kw_only=True)
class AttackJob:
    """One attacker in a process of its own; plain values."""

    endpoint: str
    row_spec: RowSpec
    kinds: tuple[str, ...] = KINDS

    @contextmanager
    def make(self) -> Iterator[AttackJob]:
        """Nothing to prepare."""
        yield self

    def ready(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}

    def measure(self, what: str, seconds: float) -> Figures:
        """Attack for `seconds`; `what` is the rate."""
        sent = flood(self.endpoint, self.row_spec, self.kinds, seconds, per_second=float(what))
        return {"messages": sum(sent.values()), "seconds": seconds}


def measure(seconds: float, rounds: int) -> list[dict[str, float]]:
    """Return, for each of `RATES`, the share of their rows/s that honest clients keep, and what was sent at them."""
    game = load_game("connect_four")
    server = WireServer(row_spec=row_spec(game), settings=ServerSettings())
    client = WireClient(game_spec=game.name, search=SearchSettings(), endpoint="", games=64, groups=2)
    shares: dict[float, list[float]] = {rate: [] for rate in RATES}
    sent: dict[float, list[float]] = {rate: [] for rate in RATES}
    with ExitStack() as stack:
        honest = stack.enter_context(Wire(server, client, 2))
        job = AttackJob(endpoint=honest.endpoint, row_spec=row_spec(game))
        attack = stack.enter_context(Stage("attack", job, game.name))
        attack.wait_ready()
        honest.measure(1.0)  # not counted: it warms
        for rate in RATES * rounds:
            before = honest.measure(seconds)["rows_per_second"]
            attack.begin(str(rate), seconds + 1)
            time.sleep(0.5)  # its connections are there
            attacked = honest.measure(seconds)["rows_per_second"]
            told = attack.end(seconds + 1)
            after = honest.measure(seconds)["rows_per_second"]
            shares[rate].append(2 * attacked / (before + after))
            sent[rate].append(told["messages"] / told["seconds"])
    return [
        {"asked": rate, "sent": median(sent[rate]), "kept": median(shares[rate]), "least": min(shares[rate])}
        for rate in RATES
    ]


def fuzz(count: int) -> dict[str, Any]:
    """Send at least `count` wrong messages of all kinds at a server of this process, which serves an honest client.

    Returns `sent`, the `answered` requests of the honest client, what was counted (`errors`), and this process's
    memory in MB after a tenth and after all of it.
    """
    game = load_game("connect_four")
    spec, sent, answered = row_spec(game), 0, 0
    memory: list[float] = []
    observations = np.zeros((64, *spec.observation_shape), spec.observation_dtype)
    with private_endpoint() as wished, InferenceServer(spec, [NullBackend(spec, 512)]) as server:
        job = AttackJob(endpoint=server.bind(wished), row_spec=spec, kinds=tuple(MESSAGES))
        with closing(ZmqClient(job.endpoint, spec)) as honest, Stage("attack", job, game.name) as attack:
            attack.wait_ready()
            while sent < count:
                attack.begin("0", _FUZZ_S)
                until = time.monotonic() + _FUZZ_S
                while time.monotonic() < until:
                    honest.submit(observations)
                    if honest.collect(10) is None:
                        raise PoolError("the honest client got no answer within 10 s")
                    answered += 1
                sent += int(attack.end(_FUZZ_S)["messages"])
                if not memory and 10 * sent >= count:
                    memory.append(psutil.Process().memory_info().rss / 2**20)
            memory.append(psutil.Process().memory_info().rss / 2**20)
        return {"sent": sent, "answered": answered, "memory_mb": memory, "errors": server.stats()["errors"]}


def main(arguments: Sequence[str]) -> None:
    """Fuzz, then measure, as the head of this file says."""
    count, seconds, rounds = (float(given) for given in [*arguments, "0", "5", "3"][:3])
    if count:
        told = fuzz(int(count))
        print(f"{told['sent']:,} wrong messages; an honest client got {told['answered']:,} of as many answers")
        print(f"memory: {told['memory_mb'][0]:.0f} MB after a tenth, {told['memory_mb'][1]:.0f} MB after all")
        print(", ".join(f"{cause} {times:,}" for cause, times in sorted(told["errors"].items())))
    print("asked/s   sent/s   honest clients keep (median, least)")
    for row in measure(seconds, int(rounds)):
        asked = f"{row['asked']:,.0f}" if row["asked"] else "all"
        print(f"{asked:>7}  {row['sent']:>7,.0f}   {row['kept']:.0%}, {row['least']:.0%}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
