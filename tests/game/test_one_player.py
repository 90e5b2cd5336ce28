"""A game for one player is played like any other: its values are one number, and nothing is negated."""

from __future__ import annotations

import inspect
import shutil

import pytest

from tests.support.command import Grove
from tests.support.one_player import Stairs

RUN = ("selfplay", "--game", "one_player:Stairs", "--games", 12, "--simulations", 12, "--workers", 2, "--seed", 3)


@pytest.mark.parametrize("how", ["--evaluator test", "--evaluator rollout", "--pool process", "--pool thread"])
def test_it_is_played_to_the_end(grove: Grove, how: str) -> None:
    shutil.copy(inspect.getfile(Stairs), grove.folder)
    grove.play(*RUN, *how.split(), "--network", "mlp:layers=1,width=8", "--compile", "off", "--out", "run")
    for record in grove.exactly(grove.folder / "run", range(12), "one_player:Stairs"):
        assert record.status == "finished"
        assert len(record.utilities) == 1
        assert all(values is not None and len(values) == 1 and -1 <= values[0] <= 1 for values in record.values)
    shown = grove.play("show", "run", "--rules", "one_player:Stairs")
    assert "the replay agrees" in shown
    assert shown.count("seed ") > 2  # a position each move
    stats = grove.play("data", "stats", "run")
    assert "mean utility" in stats
    assert "won" not in stats
