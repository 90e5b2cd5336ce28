"""`grove profile`: its arithmetic, and life without py-spy (its whole run: test_measuring.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from grove.bench.core.slices import Slice
from grove.bench.profile.figures import TOLERANCE, worker_part
from grove.bench.profile.spy import RATE, Sampling, gil_shares
from grove.bench.profile.stages import CPU, OTHER, Recorder, from_counters
from grove.bench.profile.table import stage_tables
from tests.support.measuring_tools import content, measured


def test_search_threads_without_a_network_and_without_py_spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grove.bench.profile.profile.find_py_spy", lambda: None)
    out = tmp_path / "out"
    said = measured(
        *("profile", "--games", 16, "--simulations", 8, "--workers", 1, "--pool", "thread", "--evaluator", "test"),
        *("--seconds", 1, "--out", out),
    )
    found = content(out / "profile.json")
    assert "py-spy is not installed" in found["py_spy"]["fault"]
    assert "grove-selfplay[profile]" in said
    assert found["server"]["threads"] == {}
    assert {"ask", "tell"} <= {stage["stage"] for stage in found["workers"]["stages"]}


# -- arithmetic --------------------------------------------------------------------------------------------------------


def test_stages_are_exclusive_and_sum_up_to_all_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("grove.bench.profile.stages.time.perf_counter", lambda: now[0])

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    recorder = Recorder()
    recorder.here()
    inner = recorder.timed("inner", pass_time)
    outer = recorder.timed("outer", lambda: (pass_time(1.0), inner(2.0), pass_time(4.0)))
    pass_time(8.0)
    outer()
    with pytest.raises(ZeroDivisionError):
        recorder.timed("inner", lambda: 1 / 0)()
    pass_time(16.0)
    counters = recorder.counters()
    assert from_counters(counters) == {OTHER: [24.0, 0], "outer": [5.0, 1], "inner": [2.0, 2]}
    assert recorder.counters()[CPU] >= counters[CPU] > 0


def test_a_sum_that_does_not_fit_the_clock_is_said() -> None:
    counters = {"stage:ask:wall": 3.0, "thread_cpu_s": 2.0, "stage:ask:calls": 6.0, "stage:paused:wall": 9.0}
    part = worker_part(Slice(2.0, {**counters, "requests": 4, "evaluations": 10}, {}), 2)
    assert part["unaccounted_share"] == pytest.approx(0.25)
    assert not part["adds_up"]
    figures = {"load": {"pool": "thread"}, "workers": part, "server": {"threads": {}}, "tolerance": TOLERANCE}
    assert "+25.0% not accounted for (tolerance 3%): DOES NOT ADD UP" in stage_tables(figures)[0]


def test_who_held_the_lock_is_read_from_py_spy() -> None:
    text = "thread (0x7F1): zmq-channel;_run (a.py:1);b (c.py:2) 30\nthread (0x7F2): lane-0;run (x.py:3) 5\n"
    text += f"thread (0x7F1): zmq-channel;_run (a.py:1) {RATE - 30}\n"
    assert gil_shares(text, 2.0) == {"zmq-channel": 0.5, "lane-0": pytest.approx(5 / RATE / 2)}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'Error: Permission Denied: Try running again' >&2; exit 1", "Permission Denied: Try running again"),
        ("exit 1", "py-spy ended without a word"),
    ],
)
def test_a_forbidden_py_spy_is_a_reason_and_no_fault(script: str, reason: str, tmp_path: Path) -> None:
    program = tmp_path / "py-spy"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    found = Sampling(str(program), {"worker": 1}, tmp_path, 1, gil=False).end()
    assert (found.files, found.faults) == ({}, {"worker": reason})
