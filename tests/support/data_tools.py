"""Logs and run folders to read, made of records that differ as those of real games do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from grove.common.rng import derive
from grove.records.files import LOOSE, GameFile, find_files
from grove.records.record import GameRecord, encode
from grove.records.scan import Scanned, Survey, scan_file, survey
from grove.run.folder import RunFolder
from tests.records.test_records import make_record, signed


def game(index: int, run_seed: int = 1, **changes: Any) -> GameRecord:
    """Return the game `index` of a run."""
    return msgspec.structs.replace(
        make_record(index, 3 + index % 4), seed=int(derive(np.uint64(run_seed), index)), **changes
    )


def lines(indices: Iterable[int], run_seed: int = 1, **changes: Any) -> bytes:
    """Return a log of the games `indices`."""
    return b"".join(encode(game(index, run_seed, **changes)) for index in indices)


def text(data: Mapping[str, Any]) -> bytes:
    """Return a line with these keys and a fitting checksum."""
    return signed(json.dumps({key: value for key, value in data.items() if key != "crc32"}).encode())


def write(path: Path, content: bytes) -> Path:
    """Write a log, compressed as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = zstandard.compress(content)
    path.write_bytes(content)
    return path


def make_run(folder: Path, logs: Sequence[bytes], seed: int = 1, **settings: Any) -> Path:
    """Make a run folder with these logs, as a run leaves it."""
    with RunFolder.open_or_create(folder, {"game": "connect_four", "games": 9, "seed": seed, **settings}) as run:
        for worker, content in enumerate(logs):
            write(run.games / f"worker-{worker:03d}.jsonl", content)
    return folder


def scan(path: Path, held: bool = False, in_full: bool = False) -> Scanned:
    """Count what lies in one log."""
    return scan_file(GameFile(path, LOOSE), held, in_full)


def look(*roots: Path, in_full: bool = False) -> Survey:
    """Count what lies under `roots`."""
    return survey(find_files(roots), in_full=in_full)
