"""The command `grove`, in this process or in others, and what it leaves in run folders."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grove.cli import main
from grove.commands.show import show_game
from grove.game import load_game
from grove.game.registry import BUILT_IN
from grove.records.files import Problem
from grove.records.record import GameRecord, read_folder
from tests.support.left_behind import SESSIONS

ROOT = Path(__file__).resolve().parents[2]
IN_PROCESS = ("selfplay", "work", "show", "keys", "report")
"""Commands that `Grove.play` and `Grove.refused` run in this process; `Grove.start` and `Grove.run` never do."""
LIMIT_S = 270.0
"""Hard limit on one subprocess."""


class Grove:
    """The command `grove` in subprocesses, and what they leave in run folders."""

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
        SESSIONS.add(process.pid)
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
