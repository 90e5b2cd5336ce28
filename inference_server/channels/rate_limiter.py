"""What messages that bring no new rows may cost: a pure state machine without a socket or a clock.

Faults, repeats, pings and HELLOs are the price of serving, and what a flood is made of. Most of what they cost is the
answer, so answers end first. In one tick (see the channel),

    128 messages of one sender are read: twice the largest window, all of which may come again at once.
    5 % of the thread's time all of them together may take. What comes beyond is a flood: it is read, checked and
        counted, but not answered, HELLO not carried out; and of one sender no more than 12 are read.
    10 % are there besides for the first two messages of each sender, so that honest clients come in during a flood:
        they say HELLO once a second, and ping as often.

A sender that goes on is thrown out by the channel: whoever sends without looking is stopped by that, for a while.
"""

from __future__ import annotations

from typing import NamedTuple

MOST = 128
"""Messages of one sender that are read in a tick."""
MOST_IN_FLOOD = 12
"""The same in a flood; an honest client sends fewer without new rows, but for repeats of a large window."""
FIRST = 2
"""Messages of each sender that have a share of their own."""


class RateLimits(NamedTuple):
    """Of the thread's time, for messages without new rows."""

    later: float = 0.05
    """What most of them may take together."""
    first: float = 0.10
    """What the first ones of each sender may take besides."""


NO_BOUND = RateLimits(1.0, 1.0)
"""For tests and measurements that want every message answered, whatever it costs; of one sender 128 are read still."""


class RateLimiter:
    """Who is still read, and who is answered; told of every message without new rows and of every tick."""

    def __init__(self, tick_ns: int, shares: RateLimits) -> None:
        """`tick_ns`: nanoseconds between two calls of `renew`."""
        self._most_ns = int(shares.later * tick_ns)
        self._most_first_ns = int(shares.first * tick_ns)
        self._later_ns = self._first_ns = 0
        self._messages: dict[bytes, int] = {}

    @property
    def flooded(self) -> bool:
        """Whether messages beyond the first ones have used up their share."""
        return self._later_ns >= self._most_ns

    def reads(self, sender: bytes) -> bool:
        """Return whether another message of that sender is read."""
        return self._messages.get(sender, 0) < (MOST_IN_FLOOD if self.flooded else MOST)

    def answers(self, sender: bytes) -> bool:
        """Return whether a message of that sender is answered when it brings no new rows."""
        if self._messages.get(sender, 0) < FIRST:
            return self._first_ns < self._most_first_ns
        return not self.flooded

    def charge(self, sender: bytes, spent_ns: int) -> None:
        """A message without new rows was read, which took `spent_ns` of the processor."""
        before = self._messages.get(sender, 0)
        self._messages[sender] = before + 1
        if before < FIRST:
            self._first_ns += spent_ns
        else:
            self._later_ns += spent_ns

    def renew(self) -> None:
        """A tick is over: everybody is read again."""
        self._later_ns = self._first_ns = 0
        self._messages.clear()
