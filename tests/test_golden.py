"""Stored games are byte-equal to golden files, whatever plays them: threads or processes, cache or none.

Everything of a line counts (keys, their order, how numbers are written) but what tells time: `seconds`, and `crc32`,
which is made over it. Nothing else of a record depends on clock, host or version.

The games do not depend on the kind of processor. The test evaluator's answers are 24-bit integers of a hash, scaled by
powers of two: exact in float32. The search computes them in float64 by scalar IEEE operations in a fixed order; no
kernel is compiled with fastmath, so that the compiler may neither reorder sums nor fuse a product with a sum, and the
loops that it may vectorise (the exponentials of the priors) work element by element. The root's noise and the
exploration table take log, cos and pow from the C library, whose last bit may differ between libraries. Priors are
rounded to float32 and values to four decimals, so that such a bit would have to meet a tie of two scores.
"""

from __future__ import annotations

import pytest

from tests.support.command import Grove
from tests.support.write_golden import CASES, GOLDEN, command, stored

THREADS, PROCESSES = ("--pool", "thread", "--groups", 1), ("--pool", "process", "--groups", 2)
CACHED = ("--cache", 300)
"""Small enough to forget evaluations on the way."""
PLACES = {
    "connect_four": [(*THREADS, *CACHED), PROCESSES],
    "connect_four-reuse": [THREADS, (*PROCESSES, *CACHED)],
    "hex": [THREADS, (*PROCESSES, *CACHED)],
    "hex-reuse": [(*THREADS, *CACHED), PROCESSES],
    "blob-round": [(*THREADS, *CACHED), PROCESSES],
    "blob-match": [THREADS, (*PROCESSES, *CACHED)],
}


@pytest.mark.parametrize("place", [0, 1], ids=["threads", "processes"])
@pytest.mark.parametrize("case", CASES)
def test_stored_games_are_the_golden_ones(grove: Grove, case: str, place: int) -> None:
    grove.play(*command(case, *PLACES[case][place], "--out", "run"))
    found, golden = stored(grove.folder / "run"), (GOLDEN / f"{case}.jsonl").read_bytes()
    for index, (line, expected) in enumerate(zip(found.splitlines(), golden.splitlines(), strict=True)):
        assert line == expected, f"game {index} of {case} is another one"
    assert found == golden
