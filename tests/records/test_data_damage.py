"""Logs damaged in any way: what is read of them is what a reader written the obvious way finds, and never a fault."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grove.common.errors import LineError
from grove.records import files as record_files
from grove.records.check import read_record
from grove.records.record import encode, read_head, written_heads
from grove.records.scan import records
from tests.records.test_records import signed
from tests.support.data_tools import game, lines, look, scan, text, write
from tests.support.naive_records import naive_games, naive_head

GAMES = [encode(game(index)).rstrip(b"\n") for index in range(3)]
UNUSUAL = [
    signed(json.dumps({k: v for k, v in sorted(json.loads(GAMES[0]).items()) if k != "crc32"}).encode()).rstrip(b"\n"),
    encode(game(7, game='a"\\é')).rstrip(b"\n"),
    encode(game(8, extra={"kind": [1, None]})).rstrip(b"\n"),
]
FORGED = [
    text({**json.loads(GAMES[1]), key: value}).rstrip(b"\n")
    for key, value in [
        ("index", 1 << 63), ("seed", 1 << 64), ("index", True), ("game", "x" * 1001), ("utilities", [float("nan")]),
        ("utilities", []), ("utilities", ["a"]), ("values", 3), ("values", [[1]] * 4), ("visits", [[[0]]] * 4),
        ("visits", [[[-1, 2]]] * 4), ("models", [1] * 4), ("seconds", -1), ("seconds", "x"), ("status", ["finished"]),
        ("status", "x" * 1000), ("schema", True), ("schema", 3), ("moves", [1 << 40] * 4), ("seconds", 10**400),
        ("utilities", [10**400, 1]), ("models", ["x" * 300] * 4),
    ]
]  # fmt: skip
MAGIC = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""By these a log is known to be compressed, whatever its name."""
DEEP = b'{"schema":1,"game":"x","index":1,"seed":2,"deep":' + b"[" * 100_000 + b"}"


@st.composite
def damaged_logs(draw: st.DrawFn) -> bytes:
    """Games, unusual ones, forged ones, other JSON and noise, with bytes changed, cut out and put in."""
    noise = st.binary(max_size=30)
    other = st.sampled_from([b'{"time":1}', b"[1]", b"", b"{}", b'{"schema":1', b',"crc32":0}'])
    content = bytearray(
        b"\n".join(draw(st.lists(st.sampled_from(GAMES + UNUSUAL + FORGED) | noise | other, max_size=8)))
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "end"]))
        if kind == "change" and at < len(content):
            content[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at : at + draw(st.integers(0, 200))]
        elif kind == "insert":
            content[at:at] = draw(noise)
    if draw(st.booleans()):
        content += b"\n"
    return draw(st.sampled_from([b"", b"", *MAGIC])) + bytes(content)


@given(damaged_logs(), st.sampled_from([64, 1000, 1 << 16]))
@example(b"\n".join(FORGED), 1000)
@example(signed(DEEP), 1 << 16)
@example(MAGIC[0], 1000)
@example(MAGIC[1] + GAMES[0] + b"\n", 64)
@settings(max_examples=150, deadline=None)
def test_count_check_and_the_slow_twin_agree(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, size: int
) -> None:
    """What a full check passes is what the twin finds; count finds that and forged lines, whose checksums fit."""
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_files, "BLOCK", size)
        quick, full = look(path), look(path, in_full=True)
        passed = [found.record for found in records(full, pytest.fail)]
    if content.startswith(MAGIC):
        assert [(log.kind, log.count) for log in quick.logs + full.logs] == [("unreadable", 0)] * 2
        assert "cannot be read: " in quick.logs[0].unreadable
        return
    twin = naive_games(content)
    assert sorted(set(twin)) == sorted((record.game, record.index, record.seed) for record in passed)
    assert full.total == len(set(twin))
    forged = sum(is_forged(line) for line in content.split(b"\n"))
    assert (full.logs[0].count, quick.logs[0].count) == (len(twin), len(twin) + forged)
    for log in (quick.logs[0], full.logs[0]):
        assert log.count + log.bad.total() == log.lines == len(content.split(b"\n")) - (content[-1:] in (b"", b"\n"))


@given(st.sampled_from([".gz", ".zst"]), st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_compressed_log_gives_no_game_that_it_never_held(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    held = range(40)
    path = write(tmp_path_factory.getbasetemp() / f"packed.jsonl{suffix}", lines(held))
    packed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(4, len(packed) - 1))
        if data.draw(st.booleans()):
            packed[at] ^= data.draw(st.integers(1, 255))
        else:
            packed[at : at + data.draw(st.integers(1, 50))] = data.draw(st.binary(max_size=20))
    path.write_bytes(packed)
    log = scan(path)
    found = log.games["connect_four"].index.tolist() if log.games else []
    assert set(found) <= set(held)
    assert found == sorted(set(found))
    assert log.count == len(held) or log.unreadable or log.bad_lines


@given(st.lists(st.sampled_from([*GAMES, *UNUSUAL, *FORGED, b"", b"{}"]), max_size=4), st.data())
def test_heads_read_at_once_are_those_read_one_by_one(some: list[bytes], data: st.DataObject) -> None:
    """Lines in one call, some with a byte changed, against the slow twin; nothing is left out without need."""
    some = [bytes(line) for line in some]
    if some and data.draw(st.booleans()):
        changed = bytearray(some[-1] or b"x")
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
        some[-1] = bytes(changed)
    heads = written_heads([line + b"\n" for line in some])
    if heads is None:
        written = [line in GAMES for line in some]
        assert not all(written) or not some
    else:
        assert [(heads.game, *numbers) for numbers in zip(heads.indices, heads.seeds, strict=True)] == [
            read_head(line) for line in some
        ]
        assert all(naive_head(line) or is_forged(line) for line in some)


def is_forged(line: bytes) -> bool:
    """Return whether `line` names a game, with a fitting checksum, but is none."""
    try:
        read_head(line)
    except LineError:
        return False
    try:
        read_record(line)
    except LineError:
        return True
    return False


@given(st.sampled_from(GAMES + UNUSUAL), st.data())
@settings(max_examples=100, deadline=None)
def test_no_changed_byte_is_taken_for_a_game(line: bytes, data: st.DataObject) -> None:
    changed = bytearray(line)
    changed[data.draw(st.integers(0, len(line) - 1))] ^= data.draw(st.integers(1, 255))
    assert written_heads([bytes(changed) + b"\n"]) is None
    with pytest.raises(LineError):
        read_head(bytes(changed))


@pytest.mark.parametrize("line", FORGED)
def test_a_forged_line_is_refused_by_a_full_check(line: bytes) -> None:
    body, _, tail = line.rpartition(b',"crc32":')
    assert zlib.crc32(body) == int(tail[:-1])
    with pytest.raises(LineError):
        read_record(line)
