"""`grove data`: what the commands print, write and leave alone, and with which status they end."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard

from grove.cli import main
from grove.records import export as record_export
from grove.records.record import encode, read_folder
from grove.run.folder import RunFolder
from tests.support.command import ROOT, Grove
from tests.support.data_tools import game, lines, look, make_run, signed, write

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def data(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `grove data`; return its status and what it printed."""

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["data", *map(str, words)])
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out + said.err

    return run


def told(data: Run, *words: object) -> dict[str, Any]:
    """Run `grove data` and return the object it printed; its status must be the process's."""
    status, out = data(*words, "--json")
    content: dict[str, Any] = json.loads(out)
    assert content["status"] == status
    return content


# -- count -----------------------------------------------------------------------------------------------------------


def test_no_data_is_told_from_data_that_cannot_be_read(tmp_path: Path, data: Run) -> None:
    assert data("count", tmp_path) == (3, "no games in 0 logs\n")
    write(tmp_path / "metrics.jsonl", b'{"time":1}\n')
    status, out = data("count", tmp_path)
    assert status == 3
    assert "no games in 1 log\nother .jsonl:" in out
    write(tmp_path / "a.jsonl", b"\x1f\x8b but no gzip")
    status, out = data("count", tmp_path)
    assert status == 1
    assert "could not be read:\n" in out
    assert "a.jsonl: cannot be read: " in out
    (tmp_path / "a.jsonl").write_bytes(lines([0]))
    assert data("count", tmp_path)[0] == 0
    write(tmp_path / "b.jsonl", lines([1])[:-9])
    content = told(data, "count", tmp_path)
    assert (content["status"], content["total"]) == (1, 1)
    assert content["damaged"][0]["lines"] == {"torn": 1}


def test_a_wrong_root_is_a_wrong_setting(tmp_path: Path, data: Run) -> None:
    for words, why in [
        (["count"], "no folder is given"),
        (["count", tmp_path / "nowhere"], "no such folder"),
        (["count", tmp_path, "--threshold", 5], "give --since"),
        (["count", tmp_path, "--since", "x", "--threshold", -1], "at least 0"),
        (["export", tmp_path], "out is not given"),
    ]:
        status, out = data(*words)
        assert (status, out.count("\n")) == (2, 1)
        assert why in out


# -- marks -----------------------------------------------------------------------------------------------------------


def test_new_games_since_a_mark_survive_whatever_happens_to_the_files(tmp_path: Path, data: Run) -> None:
    runs, mark = tmp_path / "runs", tmp_path / "mark"
    run = make_run(runs / "a", [lines(range(4)) + b"torn\n", lines(range(3, 8))])
    since = ("--since", mark, "--threshold", 3)
    status, out = data("count", runs, *since)
    assert "8 games (+8/3) in 2 logs; left out: 1 duplicates" in out
    assert "there is no mark" in out
    data("count", runs, "--mark", mark)
    assert "(+0/3)" in data("count", runs, *since)[1]
    make_run(run, [lines(range(4)) + b"torn\n" + lines([8]), lines(range(3, 8)) + lines([9])])  # resumed
    assert "10 games (+2/3)" in data("count", runs, *since)[1]
    data("repair", runs)
    run = run.rename(runs / "moved")
    log = run / "games" / "worker-000.jsonl"
    write(log.with_name("worker-000.jsonl.gz"), log.read_bytes())
    log.unlink()
    status, out = data("count", runs, *since)
    assert (status, out.splitlines()[0]) == (0, "connect_four: 10 games (+2/3) in 2 logs")
    log.with_name("worker-000.jsonl.gz").unlink()  # old games go, the new one stays new
    write(runs / "loose" / "x.jsonl", lines(range(2), game="hex:size=7"))
    content = told(data, "count", runs, *since)
    assert content["games"]["connect_four"]["new"] == 1
    assert content["games"]["hex:size=7"] == {
        **{"games": 2, "new": 2, "threshold": 3, "ready": False, "duplicates": 0, "copies": 0, "runs": 1, "logs": 1}
    }
    write(runs / "loose" / "x.jsonl", lines(range(3), game="hex:size=7"))
    assert told(data, "count", runs, *since)["games"]["hex:size=7"]["ready"]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"grove_mark":1}', b'{"grove_mark":1,"games":{"a":{"b":"AAA"}}}', b"[" * 99999]
)
def test_a_damaged_mark_is_refused(tmp_path: Path, data: Run, content: bytes) -> None:
    (tmp_path / "mark").write_bytes(content)
    status, out = data("count", tmp_path, "--since", tmp_path / "mark")
    assert status == 2
    assert "cannot be read" in out


# -- check and repair ------------------------------------------------------------------------------------------------

FORGED = encode(game(70)).replace(b'"status"', b'"Status"')
LATER = b'{"schema":2,"new":[]'


def test_repair_keeps_what_can_be_used_and_puts_the_rest_beside(tmp_path: Path, data: Run) -> None:
    bad = [b"torn", encode(game(71))[:-40], FORGED.rstrip(b"\n"), b'{"time":1}', b""]
    later, doubled = signed(LATER + b"}"), encode(game(1, seconds=9.0))
    nan = signed(encode(game(72)).rpartition(b',"crc32"')[0].replace(b"[1.0,-1.0]", b"[NaN,-1.0]") + b"}")
    log = lines([0, 1]) + b"\n".join(bad) + b"\n" + later + lines([2]) + doubled + nan + lines([3]) + b"tail"
    run = make_run(tmp_path / "a", [log, b"half a game", b""])
    (run / "metrics.jsonl").write_bytes(b'{"time":1}\nhalf')
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    checked = told(data, "check", tmp_path)
    assert (checked["status"], checked["total"]) == (1, 4)
    assert checked["damaged"][0]["lines"] == {"torn": 4, "damaged": 1, "foreign": 1, "later": 1, "invalid": 1}
    assert [item["removed"] for item in checked["repairs"]] == [False, True]
    assert data("repair", tmp_path, "--dry-run")[0] == 1  # one log holds no line known as a game
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before
    status, out = data("repair", tmp_path)
    assert status == 1
    assert "worker-001.jsonl: left alone: it holds no line that is known as a game" in out
    games = run / "games"
    assert (games / "worker-000.jsonl").read_bytes() == lines([0, 1]) + later + lines([2, 3])
    beside = (games / "worker-000.jsonl.rejected").read_bytes()
    assert beside == b"\n".join(bad) + b"\n" + doubled + nan + b"tail\n"
    assert sorted(path.name for path in games.iterdir()) == [
        *("worker-000.jsonl", "worker-000.jsonl.rejected", "worker-001.jsonl")
    ]
    assert (run / "metrics.jsonl").read_bytes() == b'{"time":1}\nhalf'
    assert not (run / "lock").exists()
    (games / "worker-001.jsonl").unlink()
    assert told(data, "check", tmp_path)["repairs"] == []
    assert data("repair", tmp_path) == (0, "nothing is to be repaired\n")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_repaired_log_is_compressed_as_it_was_and_nothing_is_left_of_an_empty_one(
    tmp_path: Path, data: Run, suffix: str
) -> None:
    path = write(tmp_path / f"a.jsonl{suffix}", lines([0, 1, 0])[:-1])
    gone = write(tmp_path / f"b.jsonl{suffix}", lines([0])[:80])
    write(tmp_path / f"c.jsonl{suffix}", b"")
    assert data("repair", tmp_path)[0] == 0
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(
        [path.name, f"{path.name}.rejected", f"{gone.name}.rejected"]
    )
    content = path.read_bytes()
    if suffix:
        content = (
            gzip.decompress(content)
            if suffix == ".gz"
            else zstandard.ZstdDecompressor().decompressobj().decompress(content)
        )
    assert content == lines([0, 1])
    assert (tmp_path / f"{path.name}.rejected").read_bytes() == lines([0])


def test_a_run_that_plays_is_never_touched(tmp_path: Path, data: Run) -> None:
    run = make_run(tmp_path / "a", [])
    log = run / "games" / "worker-000.jsonl"
    with RunFolder.open_or_create(run, {"game": "connect_four", "games": 9, "seed": 1}):
        log.write_bytes(b"torn\n" + lines([0]) + lines([1])[:60])
        content = told(data, "count", tmp_path)
        assert content["damaged"][0]["lines"] == {"torn": 1}
        assert content["being_written"] == [str(log)]
        log.write_bytes(b"torn\n" + lines([0]))
        status, out = data("repair", tmp_path)
        assert status == 1
        assert f"process {os.getpid()} plays in {run}" in out
        assert log.read_bytes() == b"torn\n" + lines([0])
    assert data("repair", tmp_path)[0] == 0
    assert log.read_bytes() == lines([0])


# -- stats and export ------------------------------------------------------------------------------------------------


def test_stats_say_what_they_say_of_a_real_run(tmp_path: Path, data: Run) -> None:
    run = make_run(tmp_path / "a", [lines(range(10)), lines(range(10, 12), status="timeout", utilities=[0.0, 0.0])])
    row = {"time": 1000.0, "interval_s": 6.0, "games_per_minute_by_worker": [100.0, 20.0]}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"time": 1006.0}) + "\n{}\n")
    content = told(data, "stats", tmp_path)
    table = content["games"]["connect_four"]
    assert (table["games"], table["timeouts"]["games"], table["seats"][""]["decided"]) == (12, 2, 10)
    assert content["runs"][0]["games_per_minute_by_worker"] == pytest.approx([100.0, 20.0])
    status, out = data("stats", tmp_path)
    assert status == 0
    assert "seat 0: won 10, 100.0 % (72.2..100.0)" in out
    assert "cap: 42 moves (the rules of the game; 12 games)" in out
    assert "model 0123456789abcdef: " in out
    assert "1 lines tell no rates" in out


def test_export_is_one_row_a_game_and_loses_nothing(tmp_path: Path, data: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_export, "ROWS", 3)
    extra = {"scores": [[1, 2]]}
    make_run(tmp_path / "a", [lines(range(5)) + b"torn\n", lines([4, 5], extra=extra)])
    out = tmp_path / "games.parquet"
    content = told(data, "export", tmp_path / "a", "--out", out)
    assert (content["status"], content["rows"]) == (1, 6)
    rows = pq.read_table(out).to_pylist()
    assert pq.ParquetFile(out).num_row_groups == 2
    records = list(read_folder(tmp_path / "a" / "games"))
    for row, record in zip(rows, records[:5] + records[6:], strict=True):
        assert row["run"] == next(iter(look(tmp_path).games["connect_four"]))
        for key in ("game", "index", "seed", "moves", "values", "models", "utilities", "status", "seconds"):
            assert row[key] == getattr(record, key)
        pairs = [None if v is None else [[pair["action"], pair["count"]] for pair in v] for v in row["visits"]]
        assert pairs == record.visits
        assert (json.loads(row["extra"]) if row["extra"] else {}) == record.extra
    assert data("export", tmp_path / "a", "--out", out)[0] == 2
    assert data("export", tmp_path / "a", "--out", tmp_path / "no" / "x.parquet")[0] == 2


def test_a_game_that_somebody_named_in_the_data_is_never_imported(tmp_path: Path, data: Run) -> None:
    (tmp_path / "evil.py").write_text("open('ran', 'w')\nclass Game:\n    max_moves = 3\n")
    write(tmp_path / "a.jsonl", lines([0], game="evil:Game"))
    done = subprocess.run(
        [sys.executable, "-m", "grove", "data", "stats", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not known for 1 game" in done.stdout
    assert not (tmp_path / "ran").exists()


def test_a_run_as_it_is_played(grove: Grove, tmp_path: Path) -> None:
    """Every game that a run says it has saved is counted, checked and described."""
    played = ["--evaluator", "test", "--pool", "thread", "--workers", "1", "--simulations", "8", "--seed", "3"]
    grove.play("selfplay", "--game", "hex:size=4", "--games", "9", "--max-moves", "7", "--out", "run", *played)
    assert "hex:size=4: 9 games (+9/9) in 1 log" in grove.play("data", "count", "run", "--since", "m", "--threshold", 9)
    content = json.loads(grove.play("data", "stats", "run", "--json"))
    caps = content["games"]["hex:size=4"]["timeouts"]["caps"]
    assert [(cap["moves"], cap["games"], "max_moves" in cap["source"]) for cap in caps] == [(7, 9, True)]
    assert content["games"]["hex:size=4"]["lengths"]["p100"] <= 7
    grove.play("data", "check", "run")
