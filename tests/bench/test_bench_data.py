"""The measurement of `grove data`: it reads what it says it reads, and refuses to call anything else a figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from grove.bench import data
from grove.records.files import find_files
from grove.records.scan import survey
from tests.support.data_tools import lines, make_run

WORK = ["count", "count of gzip", "count of zstd", "check", "stats"]


def test_every_reading_is_measured_printed_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = make_run(tmp_path / "run", [lines(range(4))]), tmp_path / "new" / "data.json"
    monkeypatch.setattr(sys, "argv", ["data", str(run), "--lines", "30", "--rounds", "2", "--out", str(out)])
    data.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("30 lines of ")
    assert said[0].endswith(" 4 different games")
    assert [line.partition(":")[0] for line in said[1:]] == WORK
    kept = json.loads(out.read_text())
    assert (kept["logs"]["lines"], kept["logs"]["different_games"]) == (30, 4)
    for what in WORK:
        rates = kept[what]["lines_per_second_of_a_core"]
        assert 0 < rates["low"] <= rates["median"] <= rates["high"]
        assert len(kept[what]["readings"]) == 2


def test_a_run_without_games_and_games_that_are_not_found_give_no_figure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no games"):
        data.measure(make_run(tmp_path / "run", []), data.Data())
    log = tmp_path / "a.jsonl"
    log.write_bytes(lines([0, 1]) + lines([1]))
    with pytest.raises(SystemExit, match="count found 2 games in 3 lines"):
        data._measure("count", lambda: survey(find_files([log])))
