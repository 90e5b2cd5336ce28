"""Model slots: which weights answer which rows while models come and go; no reply is ever of two models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from grove.common.errors import MessageError, ModelError
from grove.inference_server import InferenceServer, Reply, ServerSettings, ZmqClient
from grove.inference_server.batching.slots import DEFAULT, SlotTable
from tests.support.arithmetic_network import SPEC, VERSION, ArithmeticBackend, Model, compute, random_rows

Eventually = Callable[[Callable[[], Any]], Any]
VERSIONS = {VERSION: 0.0, "aa": 1.0, "bb": 2.0, "cc": 3.0, "dd": 4.0}
"""Models by name, and what each adds to every logit."""
BETWEEN = ServerSettings(swap="between-games")


def model(version: str) -> Model:
    return Model(version, VERSIONS[version])


def check(reply: Reply | None, rows: np.ndarray, version: str | None = None) -> str:
    """The reply is of one model, the one it names."""
    assert reply is not None
    assert version in (None, reply.version)
    assert np.array_equal(reply.logits, compute(SPEC, rows)[0] + np.float32(VERSIONS[reply.version]))
    return reply.version


def ask(client: Any, version: str, slot: int = 0) -> Reply:
    rows = random_rows(SPEC, 5, 3)
    client.submit(rows, slot)
    reply: Reply = client.collect(60)
    check(reply, rows, version)
    return reply


def test_a_request_that_is_split_over_a_swap_is_of_one_model() -> None:
    """Its first part is computed before the swap and its last long after; what comes later is of the new model."""
    backend = ArithmeticBackend(SPEC)
    with InferenceServer(SPEC, [backend]) as server:
        client = server.connect(2)
        backend.may_run.clear()
        long, late = random_rows(SPEC, 300, 1), random_rows(SPEC, 40, 2)
        client.submit(long)
        assert server.swap(model("aa"))
        client.submit(late)
        assert len(backend.slots) == 2  # both are needed
        backend.may_run.set()
        check(client.collect(60), long, VERSION)
        check(client.collect(60), late, "aa")
        server.tidy()
        assert list(backend.slots.values()) == [model("aa")]
        assert server.models() == {DEFAULT: "aa"}
        assert (server.stats()["model_version"], server.stats()["swaps"]) == ("aa", 1)


@pytest.mark.parametrize("channel", ["inproc", "zmq"])
@pytest.mark.parametrize("lanes", [1, 3])
def test_models_are_swapped_under_load_and_no_row_is_lost(channel: str, lanes: int) -> None:
    backends = [ArithmeticBackend(SPEC, depth=1 + lane % 2) for lane in range(lanes)]
    with InferenceServer(SPEC, backends) as server:
        endpoint, seen, faults = server.bind("tcp://127.0.0.1:*"), set[str](), list[BaseException]()
        swaps = [name for _ in range(5) for name in VERSIONS]
        over = threading.Event()

        def play(seed: int) -> None:
            client = server.connect(3) if channel == "inproc" else ZmqClient(endpoint, SPEC, window=3)
            try:
                sent: dict[int, np.ndarray] = {}
                random = np.random.default_rng(seed)
                while not over.is_set() or sent:
                    while len(sent) < 3 and not over.is_set():
                        rows = random_rows(SPEC, int(random.integers(1, 90)), int(random.integers(1 << 30)))
                        sent[client.submit(rows)] = rows
                    reply = client.collect(60)
                    seen.add(check(reply, sent.pop(reply.request)))
            except BaseException as error:
                faults.append(error)
            finally:
                client.close()

        threads = [threading.Thread(target=play, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for name in swaps:
            before = server.stats()["requests"]
            while not server.swap(model(name)):  # rows of three former ones are still on their way
                over.wait(0.001)
            while server.stats()["requests"] < before + 3 and not faults:
                over.wait(0.002)
        over.set()
        for thread in threads:
            thread.join()
        assert not faults
        assert seen == set(VERSIONS)
        assert server.stats()["failed_rows"] == 0
        server.tidy()
        assert [len(backend.slots) for backend in backends] == [1] * lanes


@pytest.mark.parametrize("channel", ["inproc", "zmq"])
def test_between_games_a_pinned_model_lives_until_it_is_released(channel: str, eventually: Eventually) -> None:
    backend = ArithmeticBackend(SPEC)
    with InferenceServer(SPEC, [backend], BETWEEN) as server:
        endpoint = server.bind("tcp://127.0.0.1:*")
        client = server.connect(2) if channel == "inproc" else ZmqClient(endpoint, SPEC)
        first = client.slots[DEFAULT]
        assert ask(client, VERSION, first).slot == first
        assert server.swap(model("aa"))
        second = ask(client, VERSION, first).slot  # the game goes on, the next one is told where to begin
        assert second > first
        ask(client, "aa", second)
        ask(client, VERSION, first)
        ask(client, "aa")  # who pins nothing gets the newest
        assert server.swap(model("bb"))
        assert not server.swap(model("cc"))  # three are alive: it has to wait
        assert server.models() == {DEFAULT: "bb"}
        ask(client, VERSION, first)
        client.release(first)
        eventually(lambda: server.swap(model("cc")))
        third = ask(client, "aa", second).slot
        ask(client, "cc", third)
        client.close()
        eventually(lambda: server.tidy() or list(backend.slots.values()) == [model("cc")])


def test_a_number_of_an_earlier_server_is_pinned_at_its_first_use() -> None:
    with InferenceServer(SPEC, [ArithmeticBackend(SPEC)], BETWEEN) as server:
        client, stranger = server.connect(2), 64 * 12345
        ask(client, VERSION, stranger)
        server.swap(model("aa"))
        ask(client, VERSION, stranger)
        client.release(stranger)
        server.tidy()
        ask(client, "aa", stranger)


def test_at_once_nothing_is_pinned() -> None:
    with InferenceServer(SPEC, [ArithmeticBackend(SPEC)]) as server:
        client = server.connect(1)
        assert client.slots == {DEFAULT: 0}
        assert ask(client, VERSION).slot == 0
        server.swap(model("aa"))
        assert ask(client, "aa").slot == 0


@pytest.mark.parametrize("channel", ["inproc", "zmq"])
def test_several_slots_are_served_side_by_side(channel: str) -> None:
    backends = [ArithmeticBackend(SPEC), ArithmeticBackend(SPEC)]
    with InferenceServer(SPEC, backends) as server:
        server.swap(model("aa"), "best")
        server.swap(model("bb"), "candidate")
        endpoint = server.bind("tcp://127.0.0.1:*")
        client = server.connect(3) if channel == "inproc" else ZmqClient(endpoint, SPEC, window=3)
        assert client.slots == {DEFAULT: 0, "best": 1, "candidate": 2}
        sent = {}
        for slot in (0, 1, 2):
            rows = random_rows(SPEC, 70, slot)
            sent[client.submit(rows, slot)] = rows, [VERSION, "aa", "bb"][slot]
        while sent:
            reply = client.collect(60)
            check(reply, *sent.pop(reply.request))
        server.swap(model("cc"), "best")
        ask(client, VERSION, 0)
        ask(client, "cc", 1)
        ask(client, "bb", 2)
        assert server.stats()["models"] == {DEFAULT: VERSION, "best": "cc", "candidate": "bb"}
        with pytest.raises(MessageError, match="model slot is 3, but there are only 3: default, best, candidate"):
            ask(client, VERSION, 3)
        client.close()


def test_a_model_that_does_not_fit_changes_nothing() -> None:
    backend = ArithmeticBackend(SPEC)
    with InferenceServer(SPEC, [backend]) as server:
        client = server.connect(1)
        with pytest.raises(ModelError, match="NaN"):
            server.swap(Model("ee", float("nan")))
        ask(client, VERSION)
        assert (list(backend.slots), server.stats()["swaps"]) == ([0], 0)


class SlotMachine(RuleBasedStateMachine):
    """Clients, games and swaps in any order: a game never changes its model, and no model goes that a game uses."""

    @initialize()
    def begin(self) -> None:
        self.table = SlotTable(between_games=True)
        self.alive = {0}
        self.next_key = 1
        self.games: dict[tuple[int, int], int] = {}  # (client, slot) -> key of its rows

    @rule(client=st.integers(0, 3))
    def start_game(self, client: int) -> None:
        slot = self.table.newest()[DEFAULT]
        key = self.table.key_of(slot, client)
        assert key == max(self.alive)
        assert self.games.setdefault((client, slot), key) == key

    @rule(client=st.integers(0, 3), generation=st.integers(1, 5))
    def come_from_another_server(self, client: int, generation: int) -> None:
        slot = 64 * generation
        key = self.table.key_of(slot, client)
        assert key == self.games.setdefault((client, slot), key)

    @rule()
    def play_on(self) -> None:
        for (client, slot), key in self.games.items():
            assert self.table.key_of(slot, client) == key
            assert self.table.announced(key) == self.table.newest()[DEFAULT]

    @rule()
    def swap(self) -> None:
        self.table.move(DEFAULT, self.next_key)
        self.alive.add(self.next_key)
        self.next_key += 1

    @rule(data=st.data())
    def end_games(self, data: st.DataObject) -> None:
        if self.games:
            client, slot = data.draw(st.sampled_from(sorted(self.games)))
            del self.games[client, slot]
            self.table.release(client, slot)

    @rule(client=st.integers(0, 3))
    def leave(self, client: int) -> None:
        self.table.leave(client)
        self.games = {game: key for game, key in self.games.items() if game[0] != client}

    @rule()
    def tidy(self) -> None:
        for key in self.table.unused():
            self.table.forget(key)
            self.alive.remove(key)

    @invariant()
    def keeps_what_is_needed(self) -> None:
        assert set(self.games.values()) <= self.alive
        assert self.table.alive(DEFAULT) == len(self.alive)


TestSlotTable = SlotMachine.TestCase
TestSlotTable.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_made_up_numbers_take_bounded_memory() -> None:
    table = SlotTable(between_games=True)
    for generation in range(1, 5000):
        table.key_of(64 * generation, generation)
    assert len(table._keys) <= 1024
