"""Finding and counting games: every layout, every kind of damage, and whatever else may lie in a folder."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
import zstandard

from grove.records.files import LineReader
from grove.records.scan import records
from tests.support.data_tools import lines, look, make_run, scan, text, write
from tests.support.naive_records import naive_games

# -- layouts ---------------------------------------------------------------------------------------------------------


def test_games_are_found_whatever_the_layout(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", [lines(range(4)), lines(range(4, 6))])
    write(tmp_path / "old" / "deep" / "x" / "b.jsonl.gz", lines(range(10, 13)))
    write(tmp_path / "old" / "c.jsonl.zst", lines([20, 21], game="hex:size=7"))
    write(tmp_path / "plain.jsonl.gz", b"").write_bytes(lines([30]))  # not compressed, whatever its name says
    write(tmp_path / "packed.jsonl", b"").write_bytes(gzip.compress(lines([31])) + gzip.compress(lines([32])))
    write(tmp_path / "two.jsonl.zst", b"").write_bytes(
        zstandard.compress(lines([33])) + zstandard.compress(lines([34]))
    )
    write(tmp_path / "notes.txt", lines([99]))
    found = look(tmp_path)
    assert {spec: found.count(spec) for spec in found.games} == {"connect_four": 14, "hex:size=7": 2}
    assert not found.unread
    assert found.doubled == {}
    assert {Path(log.file.path).name for log in found.logs if log.kind == "other"} == set()


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    make_run(tmp_path / "disk" / "a", [lines(range(5))])
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "latest").symlink_to(tmp_path / "disk" / "a")
    (runs / "again").symlink_to(tmp_path / "disk" / "a")
    (runs / "loop").symlink_to(runs)
    (runs / "self").symlink_to(runs / "self")
    os.link(tmp_path / "disk" / "a" / "games" / "worker-000.jsonl", runs / "hard.jsonl")
    found = look(runs)
    assert (found.total, found.doubled, found.troubles) == (5, {}, [])
    (runs / "gone.jsonl").symlink_to(runs / "nowhere.jsonl")
    assert [trouble.path.name for trouble in look(runs).troubles] == ["gone.jsonl"]


def test_pipes_sockets_and_devices_are_named_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "not-wanted")
    found = look(tmp_path)
    assert [(trouble.path.name, trouble.text.split(",")[0]) for trouble in found.troubles] == [
        ("a.jsonl", "it is no regular file but a pipe"),
        ("b.jsonl", "it is no regular file but a pipe"),
    ]
    assert found.unread
    assert found.logs == []
    # It may become one between looking and opening.
    assert "a pipe" in scan(tmp_path / "a.jsonl").unreadable


# -- runs, duplicates, copies ----------------------------------------------------------------------------------------


def test_the_same_index_of_other_runs_is_another_game(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [lines(range(5))])
    run = make_run(tmp_path / "b", [lines(range(5))])  # the same seed and games, played again
    start = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(start | {"time": "2026-01-01T00:00:00+00:00"}))
    write(tmp_path / "loose" / "a.jsonl", lines(range(5), run_seed=1))
    write(tmp_path / "loose" / "b.jsonl", lines(range(5), run_seed=2))
    found = look(tmp_path)
    assert (found.total, found.doubled) == (20, {})


def test_a_game_that_lies_there_twice_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [lines([0, 1, 2, 1]), lines([2, 3])])
    found = look(tmp_path)
    assert found.total == 4
    assert found.doubled == {"connect_four": {"duplicates": 2, "copies": 0}}
    assert found.left_out.tolist() == [[0, 4, 0, 2], [1, 1, 0, 3]]
    shutil.copytree(run, tmp_path / "backup")
    again = look(tmp_path)
    assert again.total == 4
    assert again.doubled == {"connect_four": {"duplicates": 2, "copies": 6}}
    assert sorted(found.record.index for found in records(again, pytest.fail)) == [0, 1, 2, 3]


def test_a_run_keeps_its_identity_when_it_is_resumed_moved_or_looked_at_from_inside(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [lines(range(3))])
    before = look(tmp_path).games
    make_run(run, [lines(range(3)), lines(range(3, 5))])
    moved = run.rename(tmp_path / "moved")
    for root in (tmp_path, moved / "games"):
        after = look(root)
        assert after.games["connect_four"].keys() == before["connect_four"].keys()
        assert after.total == 5


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"seed":1}', b"[" * 100_000, b"\xff"])
def test_a_damaged_run_json_is_named_and_the_games_count(tmp_path: Path, content: bytes) -> None:
    run = make_run(tmp_path / "a", [lines(range(3))])
    (run / "run.json").write_bytes(content)
    found = look(tmp_path)
    assert found.total == 3
    assert found.unread
    assert [trouble.path.name for trouble in found.troubles] == ["run.json"]


# -- kinds of files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind", "bad"),
    [
        (lines([0, 1])[:-1], "games", {}),
        (lines([0, 1])[:-30], "games", {"torn": 1}),
        (text({"schema": 2, "game": "connect_four"}) + lines([0]), "games", {"later": 1}),
        (text({"schema": 1, "game": "connect_four"}), "games", {"invalid": 1}),
        (b'{"time":1,"games":2}\n' * 3, "other", {"foreign": 3}),
        (b'{"time":1,"games":2}\n{"time":1,"ga', "other", {"foreign": 1, "torn": 1}),
        (b'{"time":1,"games":2}\n' + lines([0]), "games", {"foreign": 1}),
        (b"[" * 200_000 + b"\n", "unreadable", {"torn": 1}),
        (b'{"a":' * 200_000 + b"\n", "unreadable", {"torn": 1}),
        (b"\xff\xfe{\n", "unreadable", {"torn": 1}),
    ],
)
def test_what_a_file_is(tmp_path: Path, content: bytes, kind: str, bad: dict) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    log = scan(path)
    assert (log.kind, dict(log.bad)) == (kind, bad)
    assert log.count == len(naive_games(content))
    assert log.bad_lines == (0 if kind == "other" else sum(bad.values()) - bad.get("foreign", 0))


def test_a_line_too_long_is_skipped_and_those_around_it_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grove.records.files.LONGEST_LINE", 5000)
    monkeypatch.setattr("grove.records.files._BLOCK", 700)
    path = tmp_path / "a.jsonl"
    for long in (5001, 5600, 50_000):
        path.write_bytes(lines([0]) + b"x" * long + b"\n" + lines([1, 2]) + b"y" * long)
        log = scan(path)
        assert (log.count, dict(log.bad), log.lines) == (3, {"long": 2}, 5)
        assert log.games["connect_four"].line.tolist() == [1, 3, 4]
    for suffix in ("", ".gz", ".zst"):
        path = write(tmp_path / f"b.jsonl{suffix}", lines([0]) + b"x" * 5000 + b"\n" + b"x" * 5001 + b"\n" + lines([1]))
        assert (scan(path).count, dict(scan(path).bad)) == (2, {"torn": 1, "long": 1})


def test_a_log_that_grows_is_read_as_it_was_and_its_last_line_is_no_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines(range(300)) + lines([300])[:100])
    assert scan(path).bad_lines == 1
    held = scan(path, held=True)
    assert (held.count, held.bad_lines, held.being_written, held.examples) == (300, 0, True, [])
    reader = LineReader(path)
    begun = reader.lines()
    first, _ = next(begun)
    with path.open("ab") as file:
        file.write(lines([300])[100:] + lines(range(301, 900)))
    assert first + len(list(begun)) == 301
    assert reader.grew
    assert not reader.complete
