"""The golden games: whole runs whose stored games must never change by a byte, and the program that writes them anew.

    python -m tests.support.write_golden        # from the repository's root; says of every file whether it changed

Write them anew only when games are meant to change (another rule of the search, another layout of the records), and
say so in the commit: whoever resumes an older run gets games of two kinds. The test is tests/test_golden.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
GAMES = 8
_COMMON = ("selfplay", "--games", GAMES, "--seed", 11, "--evaluator", "test", "--workers", 2, "--games-per-worker", 3)
CASES: dict[str, tuple[object, ...]] = {
    "connect_four": ("--game", "connect_four", "--simulations", 16),
    "connect_four-reuse": ("--game", "connect_four", "--simulations", 16, "--reuse"),
    "hex": ("--game", "hex:size=5", "--simulations", 16),
    "hex-reuse": ("--game", "hex:size=5", "--simulations", 16, "--reuse"),
    "blob-round": ("--game", "blob:players=3,cards=4", "--simulations", 12, "--worlds", 3),
    "blob-match": ("--game", "blob:players=4,match=2", "--simulations", 12),
}
"""What decides the games of each file in tests/golden/; hidden games cannot keep subtrees."""

_INDEX = re.compile(rb'"index":(\d+)')
_ASIDE = re.compile(rb',"(seconds|crc32)":[0-9.]+')


def command(case: str, *how: object) -> tuple[object, ...]:
    """Return the arguments of `grove` that play the games of `case`; `how` says where, which must not matter."""
    return *_COMMON, *CASES[case], *how


def stored(run: Path) -> bytes:
    """Return the lines of all logs of a run by index, without what tells time: `seconds`, and with it `crc32`."""
    lines = [line for log in (run / "games").glob("*.jsonl") for line in log.read_bytes().splitlines(keepends=True)]
    return b"".join(_ASIDE.sub(b"", line) for line in sorted(lines, key=_index))


def _index(line: bytes) -> int:
    found = _INDEX.search(line)
    assert found is not None
    return int(found[1])


def main() -> None:
    """Play all cases in one worker process and write their games; say what changed."""
    for case in CASES:
        file = GOLDEN / f"{case}.jsonl"
        former = file.read_bytes() if file.exists() else b""
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            words = map(str, command(case, "--pool", "process", "--out", run))
            subprocess.run([sys.executable, "-m", "grove", *words], check=True, stdout=subprocess.DEVNULL)
            new = stored(run)
        file.write_bytes(new)
        before, after = former.splitlines(), new.splitlines()
        changed = sum(a != b for a, b in zip(before, after, strict=False)) + abs(len(before) - len(after))
        print(f"{file.name}: {f'{changed} of {len(after)} games changed' if changed else 'as before'}")


if __name__ == "__main__":
    main()
