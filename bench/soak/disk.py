"""A full disk: another run on a small file system, which ends when it is full and goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from grove.common.errors import PoolError
from grove.records.record import finished_indices

_SMALL, _LARGE = "300k", "16m"
_MORE_GAMES = 20
_LIMIT_S = 60
_BUSY_S = 10.0
"""Longest time that a process which has ended may keep the file system busy."""
_COMMAND = (
    *("selfplay", "--game", "hex:size=4", "--evaluator", "test", "--simulations", "8"),
    *("--pool", "process", "--workers", "2", "--games-per-worker", "8"),
)


def no_small_disk() -> str:
    """Return why no small file system can be mounted here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting a small file system needs Linux and root"
    try:
        with TemporaryDirectory() as place, _small_disk(Path(place)):
            return ""
    except PoolError as error:
        return str(error)


def fill_disk(place: Path, scratch: Path) -> None:
    """Let a run fill a small file system at `place`, make room, and let it finish.

    `scratch`: for its temporary files. Raises PoolError when it ends in any other way, or a game is lost or doubled.
    """
    place.mkdir(exist_ok=True)
    with _small_disk(place):
        run = place / "run"
        status, said = _grove(run, 1 << 40, scratch)
        if status != 2 or "No space left" not in said:
            raise PoolError(f"on a full disk the run ended with {status}: {said}")
        _system("mount", "-o", f"remount,size={_LARGE}", str(place))
        games = max(finished_indices(run / "games").indices) + _MORE_GAMES
        status, said = _grove(run, games, scratch)
        if status != 0:
            raise PoolError(f"when there was room again the run ended with {status}: {said}")
        done = finished_indices(run / "games")
        if done.indices != set(range(games)) or done.duplicates:
            raise PoolError(f"after a full disk {games - len(done.indices)} games are lost, {done.duplicates} doubled")


@contextmanager
def _small_disk(place: Path) -> Iterator[None]:
    _system("mount", "-t", "tmpfs", "-o", f"size={_SMALL}", "tmpfs", str(place))
    try:
        yield
    finally:
        _unmount(place)


def _unmount(place: Path) -> None:
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            return _system("umount", str(place))
        except PoolError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _grove(run: Path, games: int, scratch: Path) -> tuple[int, str]:
    """Return the exit status and the last line of what it said."""
    command = [sys.executable, "-P", "-m", "grove", *_COMMAND, "--games", str(games), "--out", str(run)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
    except subprocess.TimeoutExpired:
        raise PoolError(f"the run on the small disk went on for {_LIMIT_S} s") from None
    return done.returncode, (done.stderr or done.stdout).rstrip().rpartition("\n")[2]


def _system(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except subprocess.CalledProcessError as error:
        raise PoolError(f"{command[0]} said: {error.stderr.strip()}") from None
