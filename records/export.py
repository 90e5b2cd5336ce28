"""Games as Parquet: one row a game, nested lists for what is known per move. docs/guide/data.md gives the schema."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from grove.common.errors import RecordError, SettingError
from grove.records.files import reason
from grove.records.scan import Report, ScannedGame, Survey, records

ROWS = 4096
"""Most games held in memory and written as one row group."""
GROUP_BYTES = 16 << 20
"""Bytes of game lines after which a row group is written, so that memory stays flat for games of any size."""


def export(survey: Survey, path: Path, problems: Report) -> int:
    """Write every game that counts to the new Parquet file `path` and return how many there are.

    The file appears when it is complete. Lines that fail the full check go to `problems`.
    Raises SettingError when pyarrow is missing, RecordError when the file cannot be written.
    """
    arrow = _pyarrow()
    parquet = importlib.import_module("pyarrow.parquet")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    schema, count = schema_of(arrow), 0
    try:
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for rows in _groups(survey, problems):
                writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
                count += len(rows)
        temporary.replace(path)
    except OSError as error:
        why = f"{path} cannot be written: {reason(error)}"
        raise RecordError(f"{why}; free some space or name another --out") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def schema_of(arrow: Any) -> Any:
    """Return the schema of the file; `arrow` is the package pyarrow."""
    visit = arrow.struct([("action", arrow.int32()), ("count", arrow.int64())])
    return arrow.schema(
        [
            ("run", arrow.string()),
            ("log", arrow.string()),
            ("line", arrow.int64()),
            ("game", arrow.string()),
            ("index", arrow.int64()),
            ("seed", arrow.uint64()),
            ("status", arrow.string()),
            ("utilities", arrow.list_(arrow.float64())),
            ("moves", arrow.list_(arrow.int32())),
            ("visits", arrow.list_(arrow.list_(visit))),
            ("values", arrow.list_(arrow.list_(arrow.float64()))),
            ("models", arrow.list_(arrow.string())),
            ("seconds", arrow.float64()),
            ("extra", arrow.string()),
        ]
    )


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError:
        remedy = "install it with pip install 'grove-selfplay[data]'"
        raise SettingError(f"Parquet is written with the package pyarrow, which is missing; {remedy}") from None


def _groups(survey: Survey, problems: Report) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for game in records(survey, problems):
        rows.append(_row(game))
        size += game.size
        if len(rows) == ROWS or size >= GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _row(game: ScannedGame) -> dict[str, Any]:
    record = game.record
    return {
        **msgspec.structs.asdict(record),
        "run": game.log.file.run.identity or None,
        "log": os.fsencode(game.log.file.path).decode(errors="backslashreplace"),
        "line": game.line,
        "visits": [
            None if visits is None else [{"action": action, "count": count} for action, count in visits]
            for visits in record.visits
        ],
        "extra": json.dumps(record.extra) if record.extra else None,
    }
