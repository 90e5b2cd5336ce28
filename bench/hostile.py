"""What messages and connections that mean harm cost a server and its honest clients.

    python -m grove.bench.hostile 1000000 --out hostile.json     # that many fuzzed messages, then the table below
    python -m grove.bench.hostile 0 --seconds 2 --rounds 1       # no fuzzing; short slices

The fuzzed messages go to a server that reads and answers all of them, however many there are, and answers an honest
client meanwhile: no answer may be missing and its memory must not grow. The tables: which share of their rows/s two
honest worker processes keep while another process attacks, each attacked slice against the undisturbed ones on both
sides; over the wire alone (a network that takes no time, so that the channel binds), and with the network that is
served by default. The first row is what a process costs that only computes: an attacker takes processor time, too, and
the tables say how much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import psutil
import tyro

from grove.bench.attacks import EACH, KINDS, MESSAGES, flood
from grove.bench.core.result_file import write_result
from grove.bench.core.rounds import Spread
from grove.bench.core.stage import Figures, Stage
from grove.bench.limit.wire import NullBackend, Wire, WireClient, WireServer
from grove.common.errors import PoolError
from grove.game import load_game
from grove.inference_server import InferenceServer, RowSpec, ServerSettings, ZmqClient, private_endpoint
from grove.inference_server.batching.lanes import Backend
from grove.inference_server.channels.rate_limiter import NO_BOUND
from grove.inference_server.interface.network_settings import NetworkSettings, resolve_network
from grove.mcts import SearchSettings
from grove.workers.selfplay.evaluators import row_spec

GAME = "connect_four"
_CLIENTS, _GAMES = 2, 64
_FUZZ_S = 5.0
_BEGIN_S = 0.5
"""Seconds until the connections of an attack are there."""
_ENDLESS = 1000
"""Messages of a connection that does not come to its end: the server ends it before."""


class Attack(NamedTuple):
    """What one process does to the server."""

    kinds: tuple[str, ...]
    """Of messages and connections, in turn; none: it computes and sends nothing."""
    per_second: float = 0.0
    """Messages a second, 0 = as many as go."""
    each: int = EACH
    """Messages of one connection."""
    waits: bool = False
    """Whether each connection stays until all of it was read."""

    def __str__(self) -> str:
        if not self.kinds:
            return "a process that only computes"
        rate = f"{self.per_second:,.0f}/s" if self.per_second else "as many as go"
        what = {KINDS: "all kinds", tuple(MESSAGES): "all messages"}.get(self.kinds, ", ".join(self.kinds))
        return f"{what}, {rate}" + (f", {self.each} a connection" if self.each != EACH else "")


ATTACKS = (
    Attack(()),
    *(Attack(KINDS, rate) for rate in (1_000.0, 10_000.0, 0.0)),
    *(Attack(tuple(MESSAGES), each=each) for each in (1, _ENDLESS)),
    *(Attack((kind,)) for kind in KINDS),
)


@dataclass(frozen=True, kw_only=True)
class NetworkServer(WireServer):
    """The job of a server with the network that is served by default; plain values."""

    def backends(self) -> Sequence[Backend]:
        """Return what computes the rows, one for each lane."""
        from grove.inference_server.backends.backend import make_backends

        network, _ = resolve_network(NetworkSettings(), self.row_spec)
        return make_backends(self.row_spec, network, self.settings.max_batch)


SERVERS = {"a network that takes no time": WireServer, "the network served by default": NetworkServer}
"""Whose clients are harmed."""


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """How to measure."""

    seconds: float = 5.0
    """Seconds of a slice."""
    rounds: int = 3
    """Slices of each attack on each server."""
    out: Path | None = None
    """JSON file for all that was found."""


@dataclass
class Cost:
    """What an attack costs."""

    attack: Attack
    kept: list[float] = field(default_factory=list)
    """Share of their rows/s that honest clients keep, one for each round."""
    sent: list[float] = field(default_factory=list)
    """Messages a second, or connections, one for each round."""
    cores: list[float] = field(default_factory=list)
    """Processors that the attacker used, one for each round."""


@dataclass(frozen=True, kw_only=True)
class AttackJob:
    """One attacker in a process of its own; plain values."""

    endpoint: str
    row_spec: RowSpec
    attacks: tuple[Attack, ...]

    @contextmanager
    def make(self) -> Iterator[AttackJob]:
        """Nothing to prepare."""
        yield self

    def ready(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}

    def measure(self, what: str, seconds: float) -> Figures:
        """Attack for `seconds`; `what` is the place of the attack."""
        attack, used, sent = self.attacks[int(what)], time.process_time(), 0
        if attack.kinds:
            how: dict[str, Any] = {"per_second": attack.per_second, "each": attack.each, "waits": attack.waits}
            sent = sum(flood(self.endpoint, self.row_spec, attack.kinds, seconds, **how).values())
        else:
            _compute(seconds)
        return {"messages": sent, "seconds": seconds, "cores": (time.process_time() - used) / seconds}


def _compute(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def measure(asked: Hostile, server: type[WireServer], say: Callable[[str], None]) -> list[Cost]:
    """Return what each of `ATTACKS` costs honest clients; `say` is told of each when its last round is over."""
    game = load_game(GAME)
    job = server(row_spec=row_spec(game), settings=ServerSettings())
    client = WireClient(game_spec=game.name, search=SearchSettings(), endpoint="", games=_GAMES, groups=2)
    costs = [Cost(attack) for attack in ATTACKS]
    with ExitStack() as stack:
        honest = stack.enter_context(Wire(job, client, _CLIENTS))
        attacks = AttackJob(endpoint=honest.endpoint, row_spec=row_spec(game), attacks=ATTACKS)
        attacker = stack.enter_context(Stage("attack", attacks, game.name))
        attacker.wait_ready()
        honest.measure(1.0)  # not counted: it warms
        before = honest.measure(asked.seconds)["rows_per_second"]
        for number in range(asked.rounds):
            for place, cost in enumerate(costs):
                attacker.begin(str(place), asked.seconds + 2 * _BEGIN_S)
                time.sleep(_BEGIN_S)
                attacked = honest.measure(asked.seconds)["rows_per_second"]
                told = attacker.end(asked.seconds)
                after = honest.measure(asked.seconds)["rows_per_second"]
                cost.kept.append(2 * attacked / (before + after))
                cost.sent.append(told["messages"] / told["seconds"])
                cost.cores.append(told["cores"])
                before = after
                if number == asked.rounds - 1:
                    say(line(cost))
    return costs


def line(cost: Cost) -> str:
    """Return the row of the table."""
    kept = Spread.of(cost.kept)
    told = f"{cost.attack!s:<46}  {median(cost.sent):>7,.0f}  {median(cost.cores):>5.2f}"
    return f"{told}   {kept.median:.0%} ({kept.low:.0%}..{kept.high:.0%})"


def fuzz(count: int) -> dict[str, Any]:
    """Send at least `count` wrong messages of all kinds at a server of this process, which serves an honest client.

    Returns `sent`, the `answered` requests of the honest client, what was counted (`errors`), and this process's
    memory in MB after a tenth and after all of it. Raises PoolError when the honest client gets no answer.
    """
    game = load_game(GAME)
    spec, sent, answered = row_spec(game), 0, 0
    memory: list[float] = []
    observations = np.zeros((64, *spec.observation_shape), spec.observation_dtype)
    with private_endpoint() as wished, InferenceServer(spec, [NullBackend(spec, 512)]) as server:
        attacks = (Attack(tuple(MESSAGES), waits=True),)
        job = AttackJob(endpoint=server.bind(wished, shares=NO_BOUND), row_spec=spec, attacks=attacks)
        with closing(ZmqClient(job.endpoint, spec)) as honest, Stage("attack", job, game.name) as attacker:
            attacker.wait_ready()
            while sent < count:
                attacker.begin("0", _FUZZ_S)
                until = time.monotonic() + _FUZZ_S
                while time.monotonic() < until:
                    honest.submit(observations)
                    if honest.collect(10) is None:
                        raise PoolError("the honest client got no answer within 10 s")
                    answered += 1
                sent += int(attacker.end(_FUZZ_S)["messages"])
                if not memory and 10 * sent >= count:
                    memory.append(psutil.Process().memory_info().rss / 2**20)
            memory.append(psutil.Process().memory_info().rss / 2**20)
        return {"sent": sent, "answered": answered, "memory_mb": memory, "errors": server.stats()["errors"]}


def _print_fuzz(told: dict[str, Any]) -> None:
    print(f"{told['sent']:,} wrong messages; an honest client got {told['answered']:,} of as many answers")
    print(f"memory: {told['memory_mb'][0]:.0f} MB after a tenth, {told['memory_mb'][1]:.0f} MB after all")
    print(", ".join(f"{cause} {times:,}" for cause, times in sorted(told["errors"].items())))


def main() -> None:
    """Fuzz, then measure, as the head of this file says."""
    count, asked = tyro.cli(tuple[tyro.conf.Positional[int], Hostile], config=(tyro.conf.OmitArgPrefixes,))
    fuzzed = fuzz(count) if count else None
    if fuzzed:
        _print_fuzz(fuzzed)
    costs = {}
    for name, server in SERVERS.items():
        print(f"\n{name}\n{'attack':<46}  {'sent/s':>7}  cores   honest clients keep, median (lowest..highest)")
        costs[name] = [_row(cost) for cost in measure(asked, server, lambda text: print(text, flush=True))]
    if asked.out:
        settings = {"messages": count, "seconds": asked.seconds, "rounds": asked.rounds, "clients": _CLIENTS}
        write_result(asked.out, {"settings": settings, "fuzz": fuzzed, "attacks": costs})


def _row(cost: Cost) -> dict[str, Any]:
    return {
        "attack": str(cost.attack),
        "kept": Spread.of(cost.kept)._asdict(),
        "kept_by_round": cost.kept,
        "sent_per_second_by_round": cost.sent,
        "attacker_cores_by_round": cost.cores,
    }


if __name__ == "__main__":
    main()
