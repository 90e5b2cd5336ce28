"""`grove bench limit`: which rounds count, and settings that cannot work (its run: test_measuring.py)."""

from __future__ import annotations

from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest

from grove.bench.core.probe import Probe
from grove.bench.limit import limit
from grove.bench.limit.report import _moved_warning
from grove.common.errors import PoolError


class NoParts(limit._Bench):
    """A bench of which only the rounds are there."""

    def _round(self, number: int, seconds: float) -> dict[str, limit.Row]:
        return {part: {"rate": float(number)} for part in limit.PARTS}

    def _count_written(self, rounds: list[dict[str, limit.Row]]) -> None:
        """Nothing was written."""

    def _measured(self, rounds: list[dict[str, limit.Row]]) -> Any:
        return limit.median_of(rounds, "whole", "rate")


@pytest.mark.parametrize(
    ("speeds", "counting", "said"),
    [
        ([1, 1, 1, 1.05], [0, 1, 2], ""),
        ([1, 1, 0.5, 1, 1, 1], [0, 3, 4], "2 of 5 rounds are dropped: the burn probe beside them moved by up to 50 %"),
        ([1, 2, 4, 8, 16, 32, 64], [0, 1, 2, 3, 4, 5], "no round was quiet, so all count: the burn probe"),
    ],
)
def test_rounds_whose_probe_moved_are_dropped_and_played_again(
    speeds: list[float], counting: list[int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered = iter(speeds)
    monkeypatch.setattr(limit, "burn_probe", lambda _: Probe(1e9, 2e9 * next(delivered), 2))
    pool = SimpleNamespace(server_ready={"backend": {}}, pool_kind="thread")
    whole: Any = SimpleNamespace(pool=pool)
    asked: Any = SimpleNamespace(seconds=1.0)
    lines: list[str] = []
    none: Any = SimpleNamespace(found={})
    found = NoParts(asked, none, none, none, whole).run(limit.ROUNDS, lines.append)
    assert [done.parts["whole"]["rate"] for done in found.counted] == counting
    assert next(delivered, None) is None
    assert found.measured == median(counting)
    assert said in _moved_warning(found)
    assert bool(_moved_warning(found)) == bool(said)
    assert len(lines) == len(speeds)  # one of the plan, one a round


def test_nothing_evaluated_is_no_figure() -> None:
    with pytest.raises(PoolError, match=r"the whole evaluated nothing in a slice of 0\.2 s; use more --seconds"):
        limit._some(0, "the whole", 0.2)
