"""The run that is harmed: a real `grove selfplay` in a session of its own, its processes by what they do, its logs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from grove.bench.soak.check import Span
from grove.common.errors import RecordError
from grove.records.record import decode_line, log_paths

Roles = dict[str, list[psutil.Process]]
"""Processes of a run: supervisor, the fork servers for servers and for workers, server, worker (each may be empty)."""


class RunUnderTest:
    """One command, started again and again on the same folder."""

    def __init__(self, command: Sequence[str], folder: Path, port: int, scratch: Path) -> None:
        """`command`: what follows `grove`, without --games. `port`: of /metrics. `scratch`: for temporary files."""
        self.folder, self.scratch = folder, scratch
        self.said = folder.with_name("run.log")
        """What all starts wrote to the terminal."""
        self.starts = 0
        self._command, self._port = list(command), port
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: set[int] = set()
        self._known: dict[tuple[int, float], str] = {}  # processes whose role cannot change
        self._games = 1

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self, games: int | None = None) -> None:
        """Start the command, for `games` games in the end; without a number for as many as before."""
        self._games = self._games if games is None else games
        command = [sys.executable, "-P", "-m", "grove", *self._command, "--games", str(self._games)]
        with self.said.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(self.scratch), "COLUMNS": "200"},
                start_new_session=True,
            )
        self._sessions.add(self._process.pid)
        self.starts += 1

    @property
    def ended(self) -> int | None:
        """The exit status of the latest start, or None while it runs."""
        return self._process.poll() if self._process else None

    def stop(self) -> None:
        """Ask it to end, as a service manager would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int | None:
        """Return the exit status, or None when it runs on after `seconds`."""
        if self._process is None:
            return None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """Return the last line that it wrote."""
        lines = self.said.read_text(errors="replace").split("\n") if self.said.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "")

    def kill_all(self) -> None:
        """End every process of every start at once."""
        for process in self.members():
            with suppress(psutil.Error):
                process.kill()
        if self._process is not None:
            self._process.wait()

    # -- processes -----------------------------------------------------------------------------------------------

    def members(self) -> list[psutil.Process]:
        """Return the living processes of all starts, orphans included."""
        found = []
        for number in psutil.pids():
            with suppress(psutil.Error, OSError):
                if os.getsid(number) in self._sessions and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
                    found.append(psutil.Process(number))
        return found

    def roles(self) -> Roles:
        """Return the processes by role; one that has not shown yet what it will be is in none."""
        roles: Roles = {
            role: [] for role in ("supervisor", "server-fork-server", "worker-fork-server", "server", "worker")
        }
        listener = self._listener()
        for process in self.members():
            with suppress(psutil.Error, OSError):
                role = "server" if process.pid == listener else self._role(process)
                if role in roles:
                    roles[role].append(process)
        return roles

    def one(self, role: str) -> psutil.Process | None:
        """Return the only process of that role, if it is there."""
        return next(iter(self.roles()[role]), None)

    def endpoint(self) -> str | None:
        """Return where the server listens for its workers."""
        server = self.one("server")
        for connection in psutil.net_connections("unix") if server else []:
            address = str(connection.laddr)
            if server and connection.pid == server.pid and address.startswith(str(self.scratch)):
                return f"ipc://{address}"
        return None

    def _listener(self) -> int | None:
        listening = psutil.CONN_LISTEN
        for connection in psutil.net_connections("tcp"):
            if connection.status == listening and connection.laddr.port == self._port:
                return int(connection.pid) if connection.pid else None
        return None

    def _role(self, process: psutil.Process) -> str:
        key = (process.pid, process.create_time())
        if key not in self._known:
            role = self._lasting_role(process)
            if not role:
                return ""
            self._known[key] = role
        return self._known[key]

    def _lasting_role(self, process: psutil.Process) -> str:
        if process.pid in self._sessions:
            return "supervisor"
        words = " ".join(process.cmdline())
        if "resource_tracker" in words:
            return "tracker"
        if "forkserver" in words and process.ppid() in self._sessions:
            return "server-fork-server" if "preload_server" in words else "worker-fork-server"
        logs = str(self.folder / "games")
        return "worker" if any(file.path.startswith(logs) for file in process.open_files()) else ""

    # -- what it leaves --------------------------------------------------------------------------------------------

    def left_behind(self, patience_s: float) -> list[str]:
        """Return the processes and temporary files that are there after `patience_s`, though the run has ended."""
        deadline = time.monotonic() + patience_s
        while (left := [*self._processes_left(), *self._files_left()]) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _processes_left(self) -> Iterator[str]:
        for process in self.members():
            with suppress(psutil.Error):
                yield f"process {process.pid} {' '.join(process.cmdline())[:100]}"

    def _files_left(self) -> Iterator[str]:
        for kind in ("grove-*", "pymp-*"):
            yield from map(str, self.scratch.glob(kind))
        for path in self.folder.rglob("*"):
            if path.name == "lock" or path.suffix in (".tmp", ".part") or path.is_socket():
                yield str(path)


@dataclass
class _Tail:
    read: int = 0
    """Bytes of whole lines."""
    crc32: int = 0
    """Of those bytes."""


@dataclass
class Written:
    """The whole lines of a run's logs, noted while they are written, so that one that is gone later is missed."""

    games: Path
    seen: dict[int, Span] = field(default_factory=dict)
    """Indices of the finished games, and between which two looks the line of each came."""
    _looked_at: float = field(default_factory=time.monotonic)
    _tails: dict[Path, _Tail] = field(default_factory=dict)

    def read(self) -> None:
        """Note the lines that came since."""
        looks_at = time.monotonic()
        for path in log_paths(self.games):
            tail = self._tails.setdefault(path, _Tail())
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(tail.read)
                data = file.read()
                data = data[: data.rfind(b"\n") + 1]
                tail.read, tail.crc32 = tail.read + len(data), zlib.crc32(data, tail.crc32)
                self._note(data)
        self._looked_at = looks_at

    def changed(self) -> list[str]:
        """Return the logs that no longer begin with what was read of them."""
        return [path.name for path, tail in self._tails.items() if not _begins_with(path, tail)]

    def _note(self, data: bytes) -> None:
        came = self._looked_at, time.monotonic()
        for line in data.splitlines(keepends=True):
            with suppress(RecordError):  # torn by a kill; its game is played again
                self.seen.setdefault(decode_line(line).index, came)


def _begins_with(path: Path, tail: _Tail) -> bool:
    crc32, left = 0, tail.read
    try:
        with path.open("rb") as file:
            while left and (part := file.read(min(left, 1 << 20))):
                crc32, left = zlib.crc32(part, crc32), left - len(part)
    except FileNotFoundError:
        return False
    return left == 0 and crc32 == tail.crc32
