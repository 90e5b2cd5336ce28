"""Logs and run folders to read, made of records that differ as those of real games do."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from grove.common.rng import derive
from grove.records.files import LOOSE, GameFile, Problem, find_files
from grove.records.record import GameRecord, encode, read_folder
from grove.records.scan import Scanned, Survey, scan_file, survey
from grove.run.folder import RunFolder

MODEL = "0123456789abcdef"


def make_record(index: int = 0, plies: int = 5) -> GameRecord:
    return GameRecord(
        game="connect_four",
        index=index,
        seed=2**64 - 1,
        moves=[ply % 7 for ply in range(plies)],
        visits=[None if ply == 2 else [[0, 12], [3, 88]] for ply in range(plies)],
        values=[None if ply == 2 else [0.12345678, -0.12345678] for ply in range(plies)],
        models=[None if ply == 2 else MODEL for ply in range(plies)],
        utilities=[1.0, -1.0],
        status="finished",
        seconds=1.5,
    )


def signed(body: bytes) -> bytes:
    """Return the object text `body` as a line with a fitting checksum."""
    head = body[:-1]
    return head + b',"crc32":%d}\n' % zlib.crc32(head)


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


def read_log(path: Path) -> tuple[list[GameRecord], list[Problem]]:
    """Return the games of the only log in a folder and the lines that had to be skipped."""
    problems: list[Problem] = []
    assert [path] == list(path.parent.glob("*.jsonl*"))
    return list(read_folder(path.parent, problems)), problems


def scan(path: Path, held: bool = False, in_full: bool = False) -> Scanned:
    """Count what lies in one log."""
    return scan_file(GameFile(path, LOOSE), held, in_full)


def look(*roots: Path, in_full: bool = False) -> Survey:
    """Count what lies under `roots`."""
    return survey(find_files(roots), in_full=in_full)
