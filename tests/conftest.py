"""What every test leaves behind is nothing: no process, no thread, no socket folder. And Grove as a subprocess."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from grove.cli import main
from grove.commands.show import show_game
from grove.common.machine import usable_cores
from grove.game import load_game
from grove.game.registry import BUILT_IN
from grove.records.files import Problem
from grove.records.record import GameRecord, read_folder
from grove.workers.pool.fork_server import SERVERS, WORKERS

ROOT = Path(__file__).resolve().parent.parent
STARTED = psutil.Process().create_time()
LEAVE_S = 60.0
"""Longest time that processes, threads and folders may take to go once a test is over."""
IN_PROCESS = ("selfplay", "work", "show", "keys", "report")
"""Commands that `Grove.play` and `Grove.refused` run in this process; `Grove.start` and `Grove.run` never do."""
LIMIT_S = 270.0
"""Hard limit on one subprocess."""


def pytest_configure() -> None:
    """Give every process that runs tests beside others a session of its own (orphans are known by it), and signals."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        with contextlib.suppress(PermissionError):  # it leads one already
            os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):  # ignored in the background of a shell, and so by all children
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: many tests wait for the processes that they have started."""
    return usable_cores() + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs Grove as `slow`, and begin with the files that hold most of it, so that no core is idle at the
    end while another has one left."""
    for item in items:
        if "grove" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def temporary_folder() -> Iterator[None]:
    """Give this session and every process it starts a temporary folder of its own."""
    multiprocessing.util.get_temp_dir()  # lives longer than this fixture
    former = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="gt") as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        yield
        os.environ.pop("TMPDIR")
        if former is not None:
            os.environ["TMPDIR"] = former
        tempfile.tempdir = None


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a process, a thread or a socket folder behind."""
    threads, processes, folders = own_threads(), processes_left(), socket_folders()
    yield
    deadline = time.monotonic() + LEAVE_S
    while time.monotonic() < deadline:
        left = [
            *(f"thread {thread.name}" for thread in own_threads() - threads),
            *(describe(process) for process in processes_left() - processes),
            *(str(folder) for folder in socket_folders() - folders),
        ]
        if not left:
            return
        time.sleep(0.02)
    for process in processes_left() - processes:
        process.kill()
    pytest.fail(f"left behind: {', '.join(left)}")


def own_threads() -> set[threading.Thread]:
    """Return the threads without the one that pyzmq keeps for good after the first send without a copy."""
    return {thread for thread in threading.enumerate() if not type(thread).__module__.startswith("zmq.")}


def processes_left() -> set[psutil.Process]:
    """Return the processes this session started, children of dead ones included, without what stays on purpose.

    Nothing is asked of processes of others: reading their environment or command line may block.
    """
    staying = {os.getpid(), WORKERS.pid, SERVERS.pid, resource_tracker._resource_tracker._pid}
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            session = os.getsid(process.pid)
            orphan = session == os.getsid(0) and process.ppid() <= 1 and process.create_time() >= STARTED
            ours = process.pid in children or session in Grove.sessions or orphan
            if ours and process.pid not in staying and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    # torch keeps a pool of compiler processes.
    return {process for process in found if "torch/_inductor" not in describe(process)}


def describe(process: psutil.Process) -> str:
    try:
        return f"process {process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"process {process.pid}"


def socket_folders() -> set[Path]:
    """Return the folders of private sockets, and those of multiprocessing's own."""
    home = Path(tempfile.gettempdir())
    return {*home.glob("grove-????????"), *home.glob("pymp-????????")}


class Grove:
    """The command `grove` in subprocesses, and what they leave in run folders."""

    sessions: ClassVar[set[int]] = set()
    """Process sessions started so far: what runs in one of them is ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[str]] = []

    def start(
        self, *arguments: object, cwd: Path | None = None, inside: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[str]:
        """Start `grove` as the leader of a session of its own, as a terminal would; the command `inside` may run it."""
        # -P: like the installed command, Python does not put the current folder on the import path.
        command = [*inside, sys.executable, "-P", "-m", "grove", *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=cwd or self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._running.append(process)
        self.sessions.add(process.pid)
        return process

    def run(self, *arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `grove` to its end and return what it said."""
        return self.end(self.start(*arguments, cwd=cwd, **environment))

    def end(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        """Wait for the end of `process` and return what it said."""
        out, errors = process.communicate(timeout=LIMIT_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def _run_here(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run `grove` to its end, in this process where that makes no difference.

        Its server and workers are processes all the same; what is saved are imports and, from run to run, the processes
        that those are forked from. A folder with modules gets a process of its own: another test's may have the same
        names.
        """
        folder = cwd or self.folder
        if arguments[0] not in IN_PROCESS or any(folder.glob("*.py")):
            return self.run(*arguments, cwd=cwd)
        words, out, errors = list(map(str, arguments)), io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.chdir(folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            patch.setenv("COLUMNS", "200")
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(sys, "argv", ["grove", *words])
            with pytest.raises(SystemExit) as ended:
                main(words)
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), out.getvalue(), errors.getvalue())

    def play(self, *arguments: object, cwd: Path | None = None) -> str:
        """Run `grove`, which must succeed without a word on standard error; return its output."""
        done = self._run_here(*arguments, cwd=cwd)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def play_apart(self, *arguments: object) -> str:
        """As `play`, in a process of its own, whose start removes what killed ones left."""
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def refused(self, *arguments: object, cwd: Path | None = None) -> str:
        """Run `grove`, which must end with status 2 and one line on standard error; return that line."""
        done = self._run_here(*arguments, cwd=cwd)
        assert done.returncode == 2, done
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done
        assert lines[0].startswith("grove: "), done
        assert "Traceback" not in done.stdout, done
        return lines[0].removeprefix("grove: ")

    def close(self) -> None:
        """End what a failed test left running."""
        for process in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    # -- run folders -------------------------------------------------------------------------------------------------

    @staticmethod
    def read(folder: Path) -> list[GameRecord]:
        """Return the games of a run by index; every line of its logs must be a record."""
        problems: list[Problem] = []
        records = sorted(read_folder(folder / "games", problems), key=lambda record: record.index)
        assert not problems
        return records

    @classmethod
    def exactly(cls, folder: Path, indices: range, game: str) -> list[GameRecord]:
        """Return the games of a run after checking that they are `indices`, once each, played by the rules."""
        records = cls.read(folder)
        assert [record.index for record in records] == list(indices)
        assert {record.game for record in records} == {game}
        if game.partition(":")[0] in BUILT_IN:
            rules = load_game(game)
            for record in records:
                show_game(record, rules, io.StringIO())
        assert not (folder / "lock").exists()
        return records

    @staticmethod
    def summary(folder: Path) -> dict[str, Any]:
        content = json.loads((folder / "summary.json").read_text())
        assert isinstance(content, dict)
        return content


@pytest.fixture
def grove(tmp_path: Path) -> Iterator[Grove]:
    runner = Grove(tmp_path)
    yield runner
    runner.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait, within a hard limit, until a condition holds; return its value."""

    def wait(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 60
        while not (value := condition()):
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.01)
        return value

    return wait
