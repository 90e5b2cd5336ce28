"""Reading game logs again, written the obvious way: the whole file, every line in full, nothing fast or typed."""

from __future__ import annotations

import json
import zlib
from typing import Any


def naive_games(content: bytes) -> list[tuple[str, int, int]]:
    """Return game spec, index and seed of every usable line, in order."""
    return [head for head in map(naive_head, content.split(b"\n")) if head is not None]


def naive_head(line: bytes) -> tuple[str, int, int] | None:
    body, comma, tail = line.rpartition(b',"crc32":')
    digits = tail.removesuffix(b"}")
    if not comma or not tail.endswith(b"}") or not 1 <= len(digits) <= 10 or set(digits) - set(b"0123456789"):
        return None
    if zlib.crc32(body) != int(digits):
        return None
    try:
        data = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return (data["game"], data["index"], data["seed"]) if isinstance(data, dict) and is_game(data) else None


def _refuse(name: str) -> None:
    raise ValueError(name)


def whole(value: Any, largest: int) -> bool:
    return type(value) is int and 0 <= value <= largest


def unit(value: Any) -> bool:
    return type(value) in (int, float) and -1 - 1e-9 <= value <= 1 + 1e-9


def units(values: Any, count: int) -> bool:
    return type(values) is list and len(values) == count and all(map(unit, values))


def pairs(visits: Any) -> bool:
    return type(visits) is list and all(
        type(pair) is list and len(pair) == 2 and all(whole(n, 2**31 - 1) for n in pair) for pair in visits
    )


def depth(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def is_game(data: dict[str, Any]) -> bool:
    known = ["schema", "game", "index", "seed", "moves", "visits", "values", "models", "utilities", "status", "seconds"]
    if any(key not in data for key in known) or type(data["schema"]) is not int or data["schema"] != 1:
        return False
    lists = [data[key] for key in ("moves", "visits", "values", "models")]
    if not all(type(one) is list and len(one) == len(lists[0]) for one in lists) or type(data["utilities"]) is not list:
        return False
    seats = len(data["utilities"])
    return (
        type(data["game"]) is str
        and len(data["game"]) <= 1000
        and whole(data["index"], 2**63 - 1)
        and whole(data["seed"], 2**64 - 1)
        and all(whole(move, 2**31 - 1) for move in data["moves"])
        and all(visits is None or pairs(visits) for visits in data["visits"])
        and seats > 0
        and units(data["utilities"], seats)
        and all(values is None or units(values, seats) for values in data["values"])
        and all(model is None or (type(model) is str and len(model) <= 200) for model in data["models"])
        and data["status"] in ("finished", "resigned", "timeout")
        and type(data["seconds"]) in (int, float)
        and 0 <= data["seconds"] <= 1e9
        and all(depth(value) <= 32 for key, value in data.items() if key not in (*known, "crc32"))
    )
