"""`grove profile` on a tiny network: its files, its arithmetic, and life without py-spy. Nothing asserts a time."""

from __future__ import annotations

import contextlib
import io
import json
import pstats
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import processes_left

from bench.profile_figures import TOLERANCE, worker_part
from bench.profile_spy import RATE, Sampling, find_py_spy, gil_shares
from bench.profile_stages import CPU, OTHER, PAUSED, Recorder, from_counters
from bench.profile_table import busy_warnings, stage_tables
from bench.slices import Slice
from common.machine import usable_cores
from grove.cli import main
from grove.profile import Profile, profile
from mcts import SearchSettings
from workers.settings import PoolSettings

MLP = ("--network", "mlp:layers=1,width=8", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
WARM_S = 0.6
"""Seconds to warm a pool for: longer than the server takes to report at all."""
FORBIDDEN = re.compile("permi|ptrace|root", re.IGNORECASE)
"""What py-spy says where a process may not be looked at."""
LOAD = ("--games", "16", "--workers", "1", "--simulations", "8", "--lanes", "1", "--seconds", "2")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out, said, before = tmp_path_factory.mktemp("profile") / "out", io.StringIO(), processes_left()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr("bench.slices.WARM_S", WARM_S)
        with pytest.raises(SystemExit) as stop:
            main(["profile", *MLP, *LOAD, "--pool", "process", "--out", str(out)])
    assert stop.value.code == 0
    assert processes_left() == before
    return out, said.getvalue()


def content(folder: Path) -> dict[str, Any]:
    read = json.loads((folder / "profile.json").read_text())
    assert isinstance(read, dict)
    return read


def stages(part: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage["stage"]: stage for stage in part["stages"]}


def test_every_stage_of_the_worker_is_there_and_they_add_up(served: tuple[Path, str]) -> None:
    part = content(served[0])["workers"]
    named = stages(part)
    wanted = {"ask", "step", "observe", "pack", "send", "wait", "unpack", "tell", "play", "record", "start", OTHER}
    assert wanted <= set(named)
    assert PAUSED not in named
    assert part["laps"] > 0
    assert sum(stage["seconds"] for stage in named.values()) == pytest.approx(part["sum_seconds"])
    assert 1 - part["sum_seconds"] / part["wall_seconds"] == pytest.approx(part["unaccounted_share"])
    assert part["adds_up"] == (abs(part["unaccounted_share"]) <= TOLERANCE)
    assert named["pack"]["calls"] == named["wait"]["calls"] or named["pack"]["calls"] <= part["laps"] + 4
    for stage in named.values():
        assert stage["us_per_row"] == pytest.approx(stage["seconds"] / part["rows"] * 1e6)


def test_every_stage_of_the_server_is_there(served: tuple[Path, str]) -> None:
    found = content(served[0])
    threads = found["server"]["threads"]
    assert set(threads) == {"zmq-channel", "lane-0"}
    assert {"receive", "stage", "reply", "wait", OTHER} <= set(stages(threads["zmq-channel"]))
    assert {"compute", "reply", "wait", OTHER} <= set(stages(threads["lane-0"]))
    assert stages(threads["zmq-channel"])["stage"]["calls"] >= found["workers"]["laps"] - 4
    assert found["interpreter"]["io_thread"] == "zmq-channel"
    assert found["interpreter"]["io_thread_cpu_share"] > 0
    assert found["interpreter"]["search_gil_us_per_lap"] is not None


def test_the_folder_holds_what_the_terminal_says(served: tuple[Path, str]) -> None:
    out, said = served
    assert (out / "stages.txt").read_text().strip() in said
    assert "sum: " in said
    assert "1 worker process: " in said
    head = content(out)
    assert head["settings"]["network"] == "mlp:layers=1,width=8"
    assert head["machine"]["cores"] >= 1
    assert {"stages", "cprofile", "undisturbed"} == set(head["passes"])
    assert 0 <= head["machine_beside"]["probe_moved"] < 1
    assert all(warning in said for warning in busy_warnings(head, usable_cores()))


def test_cprofile_watched_the_loop(served: tuple[Path, str]) -> None:
    out, _ = served
    seen = {name for _, _, name in pstats.Stats(str(out / "worker.pstats")).stats}  # type: ignore[attr-defined]
    assert {"_turn", "_collect", "grow", "tell"} <= seen
    top = content(out)["cprofile"]["top"]
    assert 0 < len(top) <= 30
    assert top == sorted(top, key=lambda row: -row["own_seconds"])
    assert top[0]["function"] in (out / "cprofile.txt").read_text()


def test_flame_graphs_are_drawn_and_who_held_the_interpreter_is_known(served: tuple[Path, str]) -> None:
    out, said = served
    found = content(out)
    spied = found["py_spy"]
    faults = [spied["fault"], *spied["faults"].values(), *spied["gil_faults"].values()]
    if any(FORBIDDEN.search(fault) for fault in faults):
        assert spied["fault"] in said
        pytest.skip(f"py-spy may not look at processes here: {'; '.join(filter(None, faults))}")
    assert not any(faults)
    assert set(spied["flames"]) == {"worker", "server"}
    for name in spied["flames"].values():
        names = {element.tag.rpartition("}")[2] for element in ElementTree.parse(out / name).iter()}
        assert {"svg", "rect", "title"} <= names
    assert "_turn" in (out / spied["flames"]["worker"]).read_text()
    assert 0 <= found["interpreter"]["io_thread_gil_share"] <= 1
    assert "held the interpreter lock" in said


def test_search_threads_without_a_network_and_without_py_spy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.profile.find_py_spy", lambda: None)
    monkeypatch.setattr("bench.slices.WARM_S", WARM_S)
    out = tmp_path / "out"
    search = SearchSettings(simulations=8)
    pool = PoolSettings(workers=1, pool="thread", evaluator="test")
    assert profile(Profile(games=16, seconds=1, out=str(out), search=search, pool=pool)) == 0
    found = content(out)
    assert "py-spy is not installed" in found["py_spy"]["fault"]
    assert "grove-selfplay[profile]" in capsys.readouterr().out
    assert found["server"]["threads"] == {}
    assert {"ask", "compute", "tell"} <= set(stages(found["workers"]))
    assert found["cprofile"]["top"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seconds", "0"), "seconds is 0"),
        (("--games", "0"), "games is 0"),
        (("--seed", "-1"), "seed is -1"),
        (("--game", "chess"), "chess"),
        (("--preset", "blob"), "the known presets are"),
        (("--out", "."), "it holds 'something' already; give a new or empty folder"),
    ],
)
def test_bad_settings_end_with_one_line(
    flags: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    with pytest.raises(SystemExit) as stop:
        main(["profile", *flags])
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert words in said


# -- arithmetic --------------------------------------------------------------------------------------------------------


def test_stages_are_exclusive_and_sum_up_to_all_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("bench.profile_stages.time.perf_counter", lambda: now[0])

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


@pytest.mark.parametrize(
    ("moved", "others", "said"),
    [
        (0.02, 0.0, []),
        (0.25, 0.0, ["beware: the burn probe beside the passes moved by up to 25%"]),
        (0.02, 99.0, ["beware: other programs used 99.0 of"]),
        (0.25, None, ["beware: the burn probe", "how much other programs used meanwhile is not known"]),
    ],
)
def test_a_machine_that_was_not_quiet_is_said(moved: float, others: float | None, said: list[str]) -> None:
    warnings = busy_warnings({"machine_beside": {"probe_moved": moved, "others_cpu": others}}, usable_cores())
    assert len(warnings) == len(said)
    assert all(warning.startswith(words) for warning, words in zip(warnings, said, strict=True))


def test_who_held_the_lock_is_read_from_py_spy() -> None:
    text = "thread (0x7F1): zmq-channel;_run (a.py:1);b (c.py:2) 30\nthread (0x7F2): lane-0;run (x.py:3) 5\n"
    text += f"thread (0x7F1): zmq-channel;_run (a.py:1) {RATE - 30}\n"
    assert gil_shares(text, 2.0) == {"zmq-channel": 0.5, "lane-0": pytest.approx(5 / RATE / 2)}


def test_py_spy_is_found_beside_the_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_py_spy() is None
    (tmp_path / "py-spy").touch()
    assert find_py_spy() == str(tmp_path / "py-spy")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'Error: Permission Denied: Try running again' >&2; exit 1", "Permission Denied: Try running again"),
        ("exit 1", "py-spy ended without a word"),
        ("exit 0", "py-spy ended without a word"),
    ],
)
def test_a_forbidden_py_spy_is_a_reason_and_no_fault(script: str, reason: str, tmp_path: Path) -> None:
    program = tmp_path / "py-spy"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    found = Sampling(str(program), {"worker": 1}, tmp_path, 1, gil=False).end()
    assert (found.files, found.faults) == ({}, {"worker": reason})
