"""Connect Four whose worker processes have one slow part, as a throttled wire or a slow disk would make it.

Only children are slowed: the process that runs the tests, and the forkserver, load these games too.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from grove.game.connect_four import ConnectFour
from grove.inference_server import ZmqClient
from grove.records.log import LineLog

MESSAGE_S = 0.02
"""Seconds that each message takes longer."""
GAME_S = 0.1
"""Seconds that each finished game takes longer to write."""


class SlowWire(ConnectFour):
    """Its clients take their time for every message."""

    def __init__(self) -> None:
        super().__init__()
        _slow(ZmqClient, "submit", MESSAGE_S)


class SlowDisk(ConnectFour):
    """Its games are written to a slow disk."""

    def __init__(self) -> None:
        super().__init__()
        _slow(LineLog, "write", GAME_S)


def _slow(kind: Any, method: str, seconds: float) -> None:
    fast = getattr(kind, method)
    if multiprocessing.parent_process() is None or hasattr(fast, "slow"):
        return

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return fast(*arguments, **named)

    slow.slow = True  # type: ignore[attr-defined]
    setattr(kind, method, slow)
