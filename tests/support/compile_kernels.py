"""Compile, or load, the kernels of the games that several files of tests play. `make test` runs it before them.

Two processes that compile one kernel at the same time do the work twice, and may spoil numba's cache
(workers/selfplay/warm.py).
"""

from __future__ import annotations

from grove.workers.selfplay.warm import warm

GAMES = (
    *("connect_four", "hex:size=2", "hex:size=3", "hex:size=4", "hex:size=5", "hex:size=7", "blob:players=3,cards=3"),
    *("blob:players=5,cards=2", "blob:players=3,match=2", "blob:players=4,cards=4"),
)

if __name__ == "__main__":
    for spec in GAMES:
        warm(spec)
