"""Blob through the whole line: pool, server, records that replay, figures in rounds and in matches."""

from __future__ import annotations

import pytest

from grove.records.record import read_folder
from tests.support.blob_tools import replay
from tests.support.command import Grove

ROUNDS, WORLDS, SIMULATIONS = 24, 3, 8


@pytest.mark.parametrize("pool", ["thread", "process"])
def test_rounds_through_the_server(grove: Grove, pool: str) -> None:
    run = grove.folder / "run"
    said = grove.play(
        *("selfplay", "--game", "blob:players=5,cards=3", "--games", ROUNDS, "--pool", pool, "--workers", 2),
        *("--worlds", WORLDS, "--simulations", SIMULATIONS, "--network", "blobnet:small", "--out", run, "--seed", 4),
    )
    assert "rounds/min" in said
    records = list(read_folder(run / "games"))
    assert sorted(record.index for record in records) == list(range(ROUNDS))
    for record in records:
        moves = list(record.moves)
        scores = replay(record.extra["setup"], moves).scores()
        assert not moves
        assert record.extra["scores"] == scores
        assert record.utilities == [2 * score / 13 - 1 for score in scores]
        searched = [visits for visits in record.visits if visits]
        assert len(searched) >= 5  # every bid at least
        assert all(sum(count for _, count in visits) == WORLDS * SIMULATIONS for visits in searched)
    summary = grove.summary(run)
    assert summary["unit"] == "rounds"
    assert summary["rounds_per_minute"] == summary["games_per_minute"]
    assert "matches_per_minute" not in summary
    assert summary["distinct_evaluations"] <= summary["sampled_evaluations"]


def test_a_match_counts_both(grove: Grove) -> None:
    run = grove.folder / "run"
    said = grove.play(
        *("selfplay", "--game", "blob:players=3,match=2", "--games", 6, "--evaluator", "test", "--worlds", 2),
        *("--simulations", 4, "--out", run),
    )
    assert "matches/min" in said
    for record in read_folder(run / "games"):
        moves = list(record.moves)
        scores = [replay(setup, moves).scores() for setup in record.extra["setup"]]
        assert not moves
        assert record.extra["scores"] == scores
        assert [len(setup["hands"][0]) for setup in record.extra["setup"]] == [2, 1, 1, 1, 1, 2]
    summary = grove.summary(run)
    assert summary["rounds_per_minute"] == pytest.approx(6 * summary["matches_per_minute"])
