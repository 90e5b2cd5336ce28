"""Which weights a slot number stands for, while models come and go.

Weights are never overwritten: every model that is taken gets a key of its own in the backends, and a request belongs
to one key from its arrival to its answer, however many batches it is split over. So a reply never mixes two models, no
lane has to be parked, and the former weights are given up once none of their rows is left.

A slot number is `place + 64 * generation`. Place p is the p-th name. Generation 0 stands for the newest model of that
name. Any other generation pins one model: with `between-games`, HELLO and rows are answered with such a number, clients
start new games with it and stay with it until these are over, and the model lives until every client that used the
number has released it or is gone.
"""

from __future__ import annotations

import time

from grove.common.errors import MessageError, SettingError

DEFAULT = "default"
"""Name of the slot that is always there: place 0."""
_MOST_NAMES = 64
_MOST_PINNED = 1024
"""Pinned numbers known at once: bounds what made-up ones can take."""


class SlotTable:
    """The names, their models' keys, and who uses former ones. Guarded by the batcher's lock."""

    def __init__(self, between_games: bool) -> None:
        """Slot `default` is served by key 0."""
        self.names: list[str] = []
        self._between_games = between_games
        self._generation = 0
        self._current: list[int] = []  # place -> key
        self._numbers: dict[int, int] = {}  # key -> the number that pins it
        self._keys: dict[int, int] = {}  # pinned number -> key
        self._users: dict[int, set[int]] = {}  # pinned number -> clients that sent rows with it
        self.move(DEFAULT, 0)

    def check(self, slot: int) -> None:
        """Refuse numbers of names that are not there.

        Raises:
            MessageError: no such slot.
        """
        if slot % _MOST_NAMES >= len(self.names):
            raise MessageError(f"model slot is {slot}, but there are only {len(self.names)}: {', '.join(self.names)}")

    def key_of(self, slot: int, client: int) -> int:
        """Return the key of the weights that the client's rows for `slot` get.

        A generation that is not known is pinned to the newest model at its first use, so that a game that began before
        the server was started again stays with one model from now on.
        """
        newest = self._current[slot % _MOST_NAMES]
        if slot < _MOST_NAMES:
            return newest
        key = self._keys.get(slot)
        if key is None:
            if len(self._keys) >= _MOST_PINNED:
                return newest
            key = self._keys[slot] = newest
            self._users[slot] = set()
        self._users[slot].add(client)
        return key

    def newest(self) -> dict[str, int]:
        """Return the number that new games shall use, for every name."""
        return {name: self.announced(key) for name, key in zip(self.names, self._current, strict=True)}

    def announced(self, key: int) -> int:
        """Return the number that new games shall use, of the name that `key` belongs to."""
        place = self._numbers[key] % _MOST_NAMES
        return self._numbers[self._current[place]] if self._between_games else place

    def alive(self, name: str) -> int:
        """Return how many models of `name` are held."""
        place = self.names.index(name) if name in self.names else -1
        return sum(number % _MOST_NAMES == place for number in self._numbers.values())

    def move(self, name: str, key: int) -> None:
        """Let `key` serve `name` from now on; a new slot where there is none of that name.

        Raises:
            SettingError: there are too many slots.
        """
        if name not in self.names:
            if len(self.names) == _MOST_NAMES:
                raise SettingError.of("model-slot", name, f"there are {_MOST_NAMES} slots already", "serve fewer")
            self.names.append(name)
        place = self.names.index(name)
        self._generation = max(self._generation + 1, time.time_ns() // 1_000_000)  # grows over restarts too
        number = place + _MOST_NAMES * self._generation
        self._numbers[key], self._keys[number], self._users[number] = number, key, set()
        self._current[place : place + 1] = [key]

    def release(self, client: int, slot: int) -> None:
        """The client sends no more rows for the pinned number `slot`."""
        if slot in self._users:
            self._users[slot].discard(client)

    def leave(self, client: int) -> None:
        """The client is gone."""
        for users in self._users.values():
            users.discard(client)

    def unused(self) -> list[int]:
        """Return the former keys that no client uses any more."""
        used = {self._keys[number] for number, users in self._users.items() if users}
        return [key for key in self._numbers if key not in used and key not in self._current]

    def forget(self, key: int) -> None:
        """Remove a former key."""
        del self._numbers[key]
        for number in [number for number, other in self._keys.items() if other == key]:
            del self._keys[number], self._users[number]
