"""Reading game logs again, written the obvious way: the whole file, every line in full, nothing fast."""

from __future__ import annotations

import json
import zlib

from grove.common.errors import RecordError
from grove.records.check import read_record


def naive_games(content: bytes) -> list[tuple[str, int, int]]:
    """Return game spec, index and seed of every usable line, in order."""
    lines = content.split(b"\n")
    return [head for head in map(naive_head, lines) if head is not None]


def naive_head(line: bytes) -> tuple[str, int, int] | None:
    body, comma, tail = line.rpartition(b',"crc32":')
    digits = tail.removesuffix(b"}")
    if not comma or not tail.endswith(b"}") or not 1 <= len(digits) <= 10 or set(digits) - set(b"0123456789"):
        return None
    if zlib.crc32(body) != int(digits):
        return None
    try:
        read_record(line)
    except RecordError:
        return None
    data = json.loads(line)
    return data["game"], data["index"], data["seed"]
