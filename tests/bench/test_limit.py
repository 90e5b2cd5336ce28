"""`grove bench limit`: which rounds count, and settings that cannot work (its run: test_measuring.py)."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest

from grove.bench.core.probe import Probe
from grove.bench.limit import limit
from grove.bench.limit.report import _moved_warning
from grove.common.errors import PoolError
from tests.support.measuring_tools import refused


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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seconds", "0"), "seconds is 0"),
        (("--game", "chess"), "chess"),
        (("--evaluator", "local"), "leave --evaluator out"),
        (("--worlds", "2"), "nothing is hidden in connect_four"),
        (("--preset", "blob"), "the known presets are blob-diagnostic"),
        (("--games-per-worker", "60000", "--groups", "1", "--pool", "thread"), "60000"),
    ],
)
def test_bad_settings_end_with_one_line(
    flags: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, "bench", "limit", *flags, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "limit.json").touch()
    assert "it holds 'limit.json' already" in refused(capsys, "bench", "limit", "--out", tmp_path)
