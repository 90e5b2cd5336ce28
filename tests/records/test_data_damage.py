"""Logs damaged in any way: what is read of them is what a reader written the obvious way finds, and never a fault."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grove.common.errors import LineError
from grove.records.record import decode_line, encode, read_head
from grove.records.scan import Scanned, records
from tests.support.data_tools import game, lines, look, scan, signed, text, write
from tests.support.naive_records import naive_games

CORPUS = Path(__file__).parent.parent / "golden" / "damaged"
"""Logs that version 0.1 wrote, and damaged ones; `verdicts.json` is what it said of them, line by line."""
STRICTER = ({"invalid": 65, "later": 1}, {"invalid": 67, "later": 1})
"""Forged lines that version 0.1 refused, and that are refused now: two with numbers that JSON does not know."""

GAMES = [encode(game(index)).rstrip(b"\n") for index in range(3)]
UNUSUAL = [
    signed(json.dumps({k: v for k, v in sorted(json.loads(GAMES[0]).items()) if k != "crc32"}).encode()).rstrip(b"\n"),
    encode(game(7, game='a"\\é')).rstrip(b"\n"),
    encode(game(8, extra={"kind": [1, None]})).rstrip(b"\n"),
]
FORGED = (CORPUS / "forged.jsonl").read_bytes().splitlines()
MAGIC = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""By these a log is known to be compressed, whatever its name."""
DEEP = b'{"schema":1,"game":"x","index":1,"seed":2,"deep":' + b"[" * 100_000 + b"}"
TWICE = signed(GAMES[0].rpartition(b',"crc32"')[0] + b',"index":5}').rstrip(b"\n")


def verdict(log: Scanned) -> dict[str, Any]:
    return {
        "kind": log.kind,
        "lines": log.lines,
        "games": {
            spec: [list(part.line), list(part.index), list(map(str, part.seed))] for spec, part in log.games.items()
        },
        "bad": {kind: count for kind, count in sorted(log.bad.items()) if count},
        "unreadable": bool(log.unreadable),
    }


@pytest.mark.parametrize("name", sorted(json.loads((CORPUS / "verdicts.json").read_text())))
def test_verdicts_on_old_and_damaged_logs_are_those_of_version_0_1(name: str) -> None:
    wanted = json.loads((CORPUS / "verdicts.json").read_text())[name]
    if name == "forged.jsonl":  # its checksums fit, so that a quick count cannot tell
        found = scan(CORPUS / name, in_full=True)
        assert (found.games, wanted["full"]["bad"], dict(found.bad)) == ({}, *STRICTER)
        return
    assert verdict(scan(CORPUS / name)) == wanted["quick"]
    assert verdict(scan(CORPUS / name, in_full=True)) == wanted["full"]


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


@given(damaged_logs())
@example(b"\n".join(FORGED))
@example(signed(DEEP))
@example(MAGIC[0])
@example(MAGIC[1] + GAMES[0] + b"\n")
@settings(max_examples=150, deadline=None)
def test_count_check_and_the_slow_twin_agree(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """What a full check passes is what the twin finds; count finds that and forged lines, whose checksums fit."""
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(content)
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


def is_forged(line: bytes) -> bool:
    """Return whether `line` names a game, with a fitting checksum, but is none."""
    try:
        read_head(line)
    except LineError:
        return False
    try:
        decode_line(line)
    except LineError:
        return True
    return False


@given(st.sampled_from(GAMES + UNUSUAL), st.data())
@settings(max_examples=100, deadline=None)
def test_no_changed_byte_is_taken_for_a_game(line: bytes, data: st.DataObject) -> None:
    changed = bytearray(line)
    changed[data.draw(st.integers(0, len(line) - 1))] ^= data.draw(st.integers(1, 255))
    for read in (read_head, decode_line):
        with pytest.raises(LineError):
            read(bytes(changed))


@pytest.mark.parametrize(
    "line", [*FORGED, TWICE, text({**json.loads(GAMES[1]), "seconds": float("nan")}).rstrip(b"\n")]
)
def test_a_forged_line_is_refused_by_a_full_check(line: bytes) -> None:
    body, _, tail = line.rpartition(b',"crc32":')
    assert zlib.crc32(body) == int(tail[:-1])
    with pytest.raises(LineError) as refused:
        decode_line(line)
    assert len(str(refused.value)) < 300
