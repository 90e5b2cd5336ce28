"""Measuring commands run in this process, on a recorded clock: the burn probe always says the same."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from grove.bench.core.probe import Probe
from grove.cli import main
from tests.support.left_behind import processes_left

MLP = ("--network", "mlp:layers=1,width=8", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
STEADY = Probe(1e9, 2e9, 2)


def exits(*command: object) -> int:
    """Run `grove` in this process and return its exit status."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, command)))
    return int(stop.value.code or 0)


def measured(*command: object) -> str:
    """Run a measuring command, which must succeed and leave no process behind; return what it said."""
    said, before = io.StringIO(), processes_left()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        for module in ("core.compare", "limit.limit", "sweep.sweep", "profile.profile"):
            patch.setattr(f"grove.bench.{module}.burn_probe", lambda *_: STEADY)
        for module in ("core.slices", "peers.peers"):
            patch.setattr(f"grove.bench.{module}.WARM_S", 0.1)
        patch.setattr("grove.bench.core.modes.compiler_fault", lambda: "no compiler")  # compiling takes minutes
        assert exits(*command) == 0
    psutil.wait_procs(processes_left() - before, timeout=60)
    assert not processes_left() - before
    return said.getvalue()


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """Run `grove`, which must end with status 2 and one line on standard error; return that line."""
    assert exits(*command) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def content(path: Path) -> Any:
    return json.loads(path.read_text())
