"""Game records: what is written is read back, what is damaged is reported, what was torn spoils nothing else."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grove.common.errors import RecordError
from grove.records.log import GameLog
from grove.records.record import GameRecord, decode_line, encode, finished_indices, read_folder
from tests.support.data_tools import make_record, read_log


@st.composite
def records(draw: st.DrawFn) -> GameRecord:
    moves = draw(st.lists(st.integers(0, 5000), max_size=6))
    seats = draw(st.integers(1, 4))
    units = st.lists(st.floats(-1, 1).map(lambda x: round(x, 4)), min_size=seats, max_size=seats)
    pairs = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 10**6)).map(list), max_size=5)

    def per_move(entries: st.SearchStrategy) -> list:
        return draw(st.lists(st.none() | entries, min_size=len(moves), max_size=len(moves)))

    return GameRecord(
        game=draw(st.text(max_size=12)),
        index=draw(st.integers(0, 10**12)),
        seed=draw(st.integers(0, 2**64 - 1)),
        moves=moves,
        visits=per_move(pairs),
        values=per_move(units),
        models=per_move(st.text("0123456789abcdef", min_size=16, max_size=16)),
        utilities=draw(units),
        status=draw(st.sampled_from(("finished", "resigned", "timeout"))),
        seconds=round(draw(st.floats(0, 1e6)), 4),
        extra=draw(st.dictionaries(st.sampled_from(["target", "q", "kind"]), st.lists(st.integers()), max_size=2)),
    )


def test_line_has_the_stated_keys_and_ends_in_the_checksum_of_what_precedes_it() -> None:
    line = encode(make_record())
    data = json.loads(line)
    assert list(data) == [
        *("schema", "game", "index", "seed", "moves", "visits", "values", "models", "utilities", "status", "seconds"),
        "crc32",
    ]
    head, _, _ = line.partition(b',"crc32"')
    assert data["crc32"] == zlib.crc32(head)
    assert line.count(b"\n") == 1
    assert data["values"][0] == [0.1235, -0.1235]
    assert data["visits"][2] is None
    assert len(data["models"]) == len(data["moves"])


@given(records())
def test_round_trip(record: GameRecord) -> None:
    line = encode(record)
    assert decode_line(line) == record
    assert decode_line(line.rstrip(b"\n")) == record


def test_torn_tail_is_reported_and_does_not_swallow_the_next_game(tmp_path: Path) -> None:
    path = tmp_path / "w0.jsonl"
    path.write_bytes(encode(make_record(0)) + encode(make_record(1))[:-40])
    whole, problems = read_log(path)
    assert [record.index for record in whole] == [0]
    assert [(problem.line, "torn" in problem.text) for problem in problems] == [(2, True)]
    with GameLog(path) as log:
        log.append(make_record(1))
        log.append(make_record(2))
    whole, problems = read_log(path)
    assert [record.index for record in whole] == [0, 1, 2]
    assert [problem.line for problem in problems] == [2]


def test_folder_reading_counts_each_index_once(tmp_path: Path) -> None:
    for name, indices in (("a", [0, 1]), ("b", [1, 5])):
        with GameLog(tmp_path / f"{name}.jsonl") as log:
            for index in indices:
                log.append(make_record(index))
    with (tmp_path / "b.jsonl").open("ab") as file:
        file.write(b"noise\n" + b'{"schema":1,"game":"x","index":9,' + b"\n")
    (tmp_path / "notes.txt").write_text("not a log")
    done = finished_indices(tmp_path)
    assert (done.indices, done.duplicates) == ({0, 1, 5}, [1])
    assert [(problem.path.name, problem.line) for problem in done.problems] == [("b.jsonl", 3), ("b.jsonl", 4)]
    problems: list = []
    assert [record.index for record in read_folder(tmp_path, problems)] == [0, 1, 1, 5]
    assert problems == done.problems
    assert "b.jsonl:3: torn" in str(problems[0])


def test_games_of_a_log_that_was_compressed_meanwhile_are_not_played_again(tmp_path: Path) -> None:
    packed = gzip.compress(encode(make_record(0)) + encode(make_record(1)))
    (tmp_path / "w0.jsonl.gz").write_bytes(packed)
    with GameLog(tmp_path / "w0.jsonl") as log:
        log.append(make_record(2))
    assert finished_indices(tmp_path) == ({0, 1, 2}, [], [])
    assert [record.index for record in read_folder(tmp_path)] == [2, 0, 1]
    (tmp_path / "w0.jsonl.gz").write_bytes(packed[:-9])
    with pytest.raises(RecordError, match=r"w0\.jsonl\.gz cannot be read: .*; make it readable"):
        finished_indices(tmp_path)


WRITER = """
import resource, signal, sys
from pathlib import Path
from grove.common.errors import RecordError
from tests.support.data_tools import make_record
from grove.records.log import GameLog

path, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
log = GameLog(path, None)
index = 0
try:
    while True:
        log.append(make_record(index, plies=400))
        print(index, flush=True)
        index += 1
except RecordError as error:
    print(error, flush=True)
    signal.pause()
"""


def start_writer(args: Sequence[object]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def kill(writer: subprocess.Popen[str]) -> str:
    writer.send_signal(signal.SIGKILL)
    said, _ = writer.communicate()
    return said


def test_killed_writer_loses_no_game_that_it_reported(tmp_path: Path) -> None:
    path = tmp_path / "w0.jsonl"
    writer = start_writer([path, 0])
    assert writer.stdout is not None
    reported = [int(writer.stdout.readline()) for _ in range(50)]
    reported += [int(line) for line in kill(writer).splitlines()]
    assert finished_indices(tmp_path).indices >= set(reported)


def test_a_line_that_found_no_room_is_taken_back_and_one_torn_by_a_kill_is_skipped(tmp_path: Path) -> None:
    """The kernel's own file size limit cuts a write in the middle, as a full disk does."""
    path = tmp_path / "w0.jsonl"
    writer = start_writer([path, 50_000])
    assert writer.stdout is not None
    while "cannot write" not in writer.stdout.readline():
        pass
    kill(writer)
    before, problems = read_log(path)
    assert problems == []
    with path.open("ab") as file:
        file.write(encode(make_record(len(before)))[:100])
    assert len(read_log(path)[1]) == 1
    with GameLog(path) as log:
        log.append(make_record(len(before)))
    assert finished_indices(tmp_path).indices == set(range(len(before) + 1))
