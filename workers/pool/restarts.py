"""When a child is started again, when it is given up, and when its silence means that it hangs. Pure state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MOST_RESTARTS = 5
"""Restarts without a finished game in between, before a worker or the server is given up."""
MOST_FALSE_STARTS = 1
"""Restarts of a worker while none ever was ready: then it is as a rule the game or a setting that is wrong."""
FIRST_PAUSE_S = 0.25
"""Pause before the first restart; doubled for each further one."""
HANG_S = 20.0
"""Seconds of silence after which a child that uses no processor time hangs: forty times its interval of reports."""
STUCK_S = 300.0
"""Seconds of silence after which a child hangs although it computes; a slow game's turn may take minutes, and so may
compiling a large user network before a child is ready."""
BLINK_S = 1.0
"""Longest time that one look counts for: a supervisor that was itself held up blames nobody."""
_USED_S = 0.05
"""Processor seconds in half of `HANG_S` from which a child counts as computing."""


@dataclass
class Restarts:
    """Restarts of one child."""

    count: int = 0
    """Since the last success."""
    due: float = 0.0
    """When the next one is, in monotonic seconds; 0 = none."""

    def allow(self, started: bool = True) -> bool:
        """Count a restart; False for a child that only ever fails, which is given up.

        `started`: whether any such child ever was ready.
        """
        self.count += 1
        return self.count <= (MOST_RESTARTS if started else MOST_FALSE_STARTS)

    def schedule(self, now: float) -> None:
        """Set when the restart just counted is due: after a pause that grows."""
        self.due = now + self.pause_s

    @property
    def pause_s(self) -> float:
        """The pause before the restart just counted."""
        return float(FIRST_PAUSE_S * 2 ** (self.count - 1))

    def is_due(self, now: float) -> bool:
        """Whether the child is to be started again now."""
        return 0.0 < self.due <= now


@dataclass
class Silence:
    """How long a child has said nothing although it should."""

    hang_s: float = HANG_S
    """Seconds of it after which a child that uses no processor time hangs."""
    seconds: float = 0.0
    used_s: float | None = None
    """Its processor time when it was looked at last."""
    looked_at: float = 0.0
    """How long it had been silent then."""

    def broken(self) -> None:
        """It said something."""
        self.seconds, self.used_s = 0.0, None

    def hangs(self, elapsed_s: float, processor_seconds: Callable[[], float | None]) -> str:
        """Count `elapsed_s` more of silence; return how the child is known to hang, or nothing.

        It is looked at after half of `hang_s`, and again after each further half: has it used processor time?
        """
        self.seconds += min(elapsed_s, BLINK_S)
        if self.seconds >= STUCK_S:
            return f"it said nothing for {STUCK_S:.0f} s"
        half = self.hang_s / 2
        if self.seconds < half or (self.used_s is not None and self.seconds - self.looked_at < half):
            return ""
        before, self.used_s, self.looked_at = self.used_s, processor_seconds(), self.seconds
        if before is None or self.used_s is None or self.used_s - before >= _USED_S:
            return ""
        return f"it said nothing for {self.seconds:.0f} s and used no processor time"
