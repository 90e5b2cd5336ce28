"""Which models a group's decisions came from: as a rule one; after a swap in mid-search, all that answered.

A swap is rare and a group hears of it with an answer. Only then, and until every decision under way has been played, is
it noted per position who answered it; all other time it costs one comparison a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from grove.records.record import JOINT


class ModelVersions:
    """The models of a group's decisions. Positions are places of the group's games."""

    def __init__(self) -> None:
        self._current: dict[int, str] = {}  # slot -> the model that answered last
        self._earlier: dict[int, list[str]] = {}  # position -> models before it in its present decision
        self._reached: set[int] = set()  # of these positions, those that the current model answered as well

    def heard(
        self, slot: int, version: str, answered: Callable[[], Iterable[int]], begun: Callable[[], Iterable[int]]
    ) -> None:
        """Model `version` answers rows of `slot`; call it before the search is told.

        Args:
            slot: the model slot.
            version: the model.
            answered: gives the positions whose rows these are.
            begun: gives the positions of this slot that were answered before, in their present decision.
        """
        former = self._current.get(slot)
        if former != version:
            self._current[slot] = version
            if former is not None:
                self._turn_page(former, begun())
        if self._earlier:
            self._reached.update(answered())

    def _turn_page(self, former: str, begun: Iterable[int]) -> None:
        for position in begun:
            if position not in self._earlier:
                self._earlier[position] = [former]
            elif position in self._reached:
                self._earlier[position].append(former)
            self._reached.discard(position)

    def played(self, slot: int, position: int, kept: bool) -> str:
        """Return the models of the decision just made at `position`; `kept`: its tree goes on with the next one."""
        if not self._earlier or position not in self._earlier:
            return self._current.get(slot, "")
        names = [*self._earlier[position], *([self._current[slot]] if position in self._reached else [])]
        if not kept:
            self.over(position)
        return JOINT.join(dict.fromkeys(names))

    def over(self, position: int) -> None:
        """The game at `position` has ended, or its tree was given up."""
        self._earlier.pop(position, None)
        self._reached.discard(position)
