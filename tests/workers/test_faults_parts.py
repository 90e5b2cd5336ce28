"""The small parts that faults meet: silence, restarts, logs on bad disks, folders and locks of killed processes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grove.common.errors import SettingError
from grove.common.scratch import scratch_folder, sweep
from grove.records.log import LineLog
from grove.run.lock import FolderLock, holder
from grove.workers.pool.supervision import BLINK_S, HANG_S, MOST_RESTARTS, STUCK_S, Restarts, Silence

Eventually = Callable[[Callable[[], Any]], Any]


def silent_for(used: list[float | None]) -> tuple[float, str]:
    """Look once a second at a child whose processor time is `used`, the last entry for ever; return what comes out."""
    silence, looks = Silence(), iter(used)
    last = used[-1]
    for second in range(1, 1000):
        why = silence.hangs(1.0, lambda: next(looks, last))
        if why:
            return second, why
    raise AssertionError("never noticed")


def test_a_child_that_computes_nothing_hangs_and_one_that_computes_gets_time() -> None:
    assert silent_for([1.0])[0] == HANG_S
    assert silent_for([1.0, 3.0, 5.0, 5.01])[0] == 2 * HANG_S  # it hung before the fourth look
    assert silent_for([None])[0] == STUCK_S
    seconds, why = silent_for([float(number) for number in range(1000)])
    assert (seconds, why) == (STUCK_S, f"it said nothing for {STUCK_S:.0f} s")


def test_a_supervisor_that_was_held_up_blames_nobody() -> None:
    silence = Silence()
    assert not silence.hangs(1e6, lambda: 1.0)
    assert silence.seconds == BLINK_S
    silence.broken()
    assert silence.seconds == 0


def test_pauses_grow_until_a_child_is_given_up() -> None:
    restarts, pauses = Restarts(), []
    while restarts.allow():
        restarts.schedule(100.0)
        assert not restarts.is_due(100.0)
        assert restarts.is_due(restarts.due)
        pauses.append(restarts.due - 100.0)
    assert len(pauses) == MOST_RESTARTS
    assert all(later == 2 * earlier for earlier, later in itertools.pairwise(pauses))


@pytest.mark.parametrize(("every_s", "after_lines", "after_wait"), [(0.0, 4, 4), (5.0, 0, 1), (None, 0, 0)])
def test_syncs_follow_the_policy_also_when_no_further_line_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float | None, after_lines: int, after_wait: int
) -> None:
    synced, real, now = [], os.fsync, [100.0]

    def counted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    size = len(b"line\n")
    with LineLog(tmp_path / "log", every_s, lambda: now[0]) as log:
        for _ in range(4):
            log.write(b"line\n")
        assert len([n for n in synced if n in (size, 2 * size, 3 * size, 4 * size)]) == after_lines
        now[0] += every_s or 1000.0
        log.sync_if_due()
        log.sync_if_due()  # nothing new: no further sync
        assert len([n for n in synced if n <= 4 * size]) == after_wait


_OWN = """
import sys, time
from grove.common.scratch import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    time.sleep(1000)
"""


def test_the_folder_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not() -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWN], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    left = Path(owner.stdout.readline().strip())
    assert left.parent == Path(tempfile.gettempdir())
    assert left.stat().st_mode & 0o077 == 0
    sweep()
    assert left.exists()
    owner.kill()
    owner.communicate()
    assert left.exists()
    with scratch_folder() as folder:
        assert not left.exists()
        sweep()
        assert folder.exists()
    assert not folder.exists()


_HOLD = """
import os, sys, time
from pathlib import Path
from grove.run.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
if os.fork() == 0:
    time.sleep(1.0)  # a child that still writes
    Path(sys.argv[1]).with_name("last words").touch()
    os._exit(0)
print("held", flush=True)
time.sleep(1000)
"""


def test_the_lock_of_a_killed_holder_is_waited_for_until_its_children_have_ended(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holding = subprocess.Popen([sys.executable, "-c", _HOLD, path], stdout=subprocess.PIPE, text=True)
    assert holding.stdout is not None
    assert holding.stdout.readline() == "held\n"
    holding.kill()
    holding.wait()
    lock = FolderLock(path)
    assert (tmp_path / "last words").exists()
    lock.release()
    holding.stdout.close()


_LEAVE = """
import os, sys, time
from pathlib import Path
from grove.run.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
if os.fork() == 0:
    sys.stdin.read()  # a child that could not be ended
    os._exit(0)
lock.release()
"""


def test_a_clean_end_leaves_the_lock_to_a_child_that_has_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", _LEAVE, path], stdin=subprocess.PIPE) as holding:
        assert holding.wait() == 0
        assert holder(path) == (holding.pid, True)
        monkeypatch.setattr("grove.run.lock.ORPHANS_S", 0.1)
        with pytest.raises(SettingError, match=f"in use by process {holding.pid}"):
            FolderLock(path)
        monkeypatch.undo()
    lock = FolderLock(path)  # the child's input has ended, and so has it
    lock.release()
    assert not path.exists()
