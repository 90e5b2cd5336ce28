"""One run of each measuring command, on a recorded clock: files, keys and exit status are there, whatever the figures.

What a machine should reach is asserted by tests/bench_check, which is not part of `make test`.
"""

from __future__ import annotations

import csv
import io
import pstats
from pathlib import Path

import pytest
from matplotlib.image import imread

from grove.bench.peers import peers
from grove.bench.sweep.rows import COLUMNS
from grove.common.machine import usable_cores
from tests.support.measuring_tools import MLP, content, measured, refused

LOAD = ("--simulations", 8, "--lanes", 1)
SUMMARY_KEYS = (
    *("games", "seconds", "games_per_minute", "evaluations_per_second", "simulations_per_second"),
    *("distinct_evaluations", "mean_batch_rows", "fill", "dispatch_reasons", "cache_hit_rate", "model_version"),
    *("worker_peak_rss_mb", "server_peak_rss_mb", "device", "dtype", "pool"),
)
OWN_KEYS = (
    *("mode", "peak", "peak_share", "ratio_to_direct", "ratio_low", "ratio_high", "rounds", "rounds_dropped"),
    *("probe", "sampled_evaluations", "distinct_share", "mean_visit_entropy", "plan_days", "simulations_per_game"),
    *("slowest_worker_games", "fastest_worker_games", "ours_by_rule", "ours_by_rule_low", "ours_by_rule_high"),
)


@pytest.mark.slow
def test_compare(tmp_path: Path) -> None:
    """More workers than cores, so that `direct` is tried at both numbers."""
    out, workers = tmp_path / "out", usable_cores() + 1
    modes = ("direct", "server-thread", "server-process")
    said = measured(
        *("bench", "compare", *MLP, *LOAD, "--workers", workers, "--games-per-worker", 16, "--max-batch", 16),
        *("--modes", ",".join(modes), "--seconds", 2, "--plan", "500x10000", "--out", out),
    )
    rows = {row["mode"]: row for row in content(out / "results.json")}
    variants = ["direct-eager", f"direct-eager-{workers}-workers"]
    assert list(rows) == [*modes, *variants, "direct-compiled", "direct-cpp-wrapper"]
    assert rows["direct-compiled"]["not_measured"] == "no compiler"
    assert all({*SUMMARY_KEYS, *OWN_KEYS} <= row.keys() for row in rows.values())
    assert all(rows[mode]["not_measured"] is None for mode in (*modes, *variants))
    head = content(out / "run.json")
    assert head["settings"]["simulations"] == 8
    assert {item["bucket"] for item in head["peak"]["tried"]} >= {64, 128, 256, 512}
    assert all({"kept", "peak", "probes", *modes} <= done.keys() for done in head["rounds"])
    assert imread(out / "chart.png").shape[1] == 1500
    assert {path.name for path in (out / "games").iterdir()} == {*modes, *variants} - {"direct"}
    assert "500 x 10,000 games" in said
    assert "direct-compiled: not measured: no compiler" in said


@pytest.mark.slow
def test_limit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = measured(
        *("bench", "limit", *MLP, "--simulations", 8, "--games-per-worker", 64, "--max-batch", 64),
        *("--pool", "process", "--workers", 2, "--seconds", 4, "--out", out),
    )
    found = content(out / "limit.json")
    assert {peak["name"] for peak in found["bounds"]} == {"network", "search", "wire", "writer", "cores", "workers"}
    assert found["settings"]["simulations"] == 8
    assert (len(found["rounds"]), found["rounds_dropped"]) == (3, 0)
    assert {item["bucket"] for item in found["network"]["tried"]} >= {64, 128, 256, 512, 1024}
    assert found["verdict"]["text"] in said
    assert "next: " in said
    assert sorted(path.name for path in out.iterdir()) == ["games", "limit.json", "limit.png"]
    picture = imread(out / "limit.png")[..., :3]
    assert picture.shape[1] == 1500
    assert all((edge == 1.0).all() for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]))


@pytest.mark.slow
def test_sweep_and_the_same_command_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two points that take turns, by our rule and by another, and two that ask for more rows than a request may."""
    out = tmp_path / "out"
    command = (
        *("bench", "sweep", *MLP, *LOAD, "--workers", 1, "--games-per-worker", 16, "--max-batch", 64),
        *("--modes", "server-process,drain", "--point-seconds", 1, "--quick", "--probe-limit", 1, "--out", out),
        *("--over-workers", "off", "--over-max-batch", "off", "--over-games-per-worker", 60000),
    )
    said = measured(*command)
    rows, made = content(out / "results.json"), (out / "visits.jsonl").read_text().splitlines()
    assert [(row["mode"], row["games_per_worker"], row["success"]) for row in rows] == [
        *(("server-process", 16, True), ("server-process", 60000, False)),
        *(("drain", 16, True), ("drain", 60000, False)),
    ]
    assert all(list(row)[: len(COLUMNS)] == list(COLUMNS) for row in rows)
    assert "may ask 4096 rows" in rows[1]["failure"]
    assert "2 of 4 points failed; the same command on this folder tries them again" in said
    table = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert [row["success"] for row in table] == ["true", "false"] * 2
    assert (float(table[0]["seconds"]), table[1]["evaluations"]) == (rows[0]["seconds"], "")
    assert content(out / "columns.json") == COLUMNS
    assert imread(out / "chart.png").shape[1] >= 1500
    assert not list((out / "games").iterdir()), "games of a measurement are not kept"

    said = measured(*command, "--plan", "500x10000")
    assert "4 points, 2 visits to make" in said
    assert "500 x 10,000 games" in said
    again = (out / "visits.jsonl").read_text().splitlines()
    assert (again[: len(made)], len(again)) == (made, len(made) + 2)
    row = content(out / "results.json")[0]
    assert {key: row[key] for key in rows[0]} == rows[0]
    assert row["plan_games"] == 5_000_000

    line = refused(capsys, *command, "--simulations", 5)
    assert "simulations: 8 -> 5" in line
    assert "give another --out" in line


@pytest.mark.slow
def test_profile(tmp_path: Path) -> None:
    out = tmp_path / "out"
    load = ("--games", 16, "--workers", 1, *LOAD, "--seconds", 3)
    said = measured("profile", *MLP, *load, "--pool", "process", "--out", out)
    found = content(out / "profile.json")
    assert found["settings"]["simulations"] == 8
    assert {"stages", "cprofile", "undisturbed"} == set(found["passes"])
    assert {"ask", "tell", "wait"} <= {stage["stage"] for stage in found["workers"]["stages"]}
    assert set(found["server"]["threads"]) == {"zmq-channel", "lane-0"}
    assert found["interpreter"]["io_thread"] == "zmq-channel"
    assert (out / "stages.txt").read_text().strip() in said
    seen = {name for _, _, name in pstats.Stats(str(out / "worker.pstats")).stats}  # type: ignore[attr-defined]
    assert {"_turn", "tell"} <= seen
    spied = found["py_spy"]
    assert spied["fault"] or all((out / name).exists() for name in spied["flames"].values())


@pytest.mark.slow
def test_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "GROVE", ("server-thread", "server-thread-cache"))
    monkeypatch.setattr(peers, "core_ids", lambda: [0])  # one process of a peer
    monkeypatch.setattr(peers, "CACHE_WARM_S", 0.1)
    monkeypatch.setitem(peers.MODULES, "mctx", ("no_such_module",))
    out = tmp_path / "out"
    said = measured(
        *("bench", "peers", *MLP[2:], "--network", "resnet:blocks=1,channels=4", "--simulations", 8),
        *("--games-per-worker", 32, "--seconds", 2, "--peers", "open_spiel,mctx", "--out", out),
    )
    rows = {row["mode"]: row for row in content(out / "results.json")}
    assert set(rows) == {*peers.GROVE, "open_spiel", "mctx"}
    assert [name for name, row in rows.items() if row["not_measured"]] == ["mctx"]
    assert all("simulations_per_second" in row for row in rows.values() if not row["not_measured"])
    assert "not measured: no_such_module is not installed" in said
    assert "3 rounds, 0 dropped" in said
    assert {"parameters", "idle_cpu", "others_cpu"} <= content(out / "run.json").keys()
    assert imread(out / "chart.png").shape[1] == 1500


# -- what a user can mend ----------------------------------------------------------------------------------------------

UNPLAYABLE = "--games-per-worker 60000 --groups 1 --pool thread"
WRONG = {
    "bench compare": {
        "--modes direct,fast": "'fast' is no mode; choose from direct, local",
        "--modes ,": "it names no mode",
        "--seconds 0": "seconds is 0",
        "--game hex:size=3 --worlds 2": "nothing is hidden in hex:size=3",
    },
    "bench limit": {"--seconds 0": "seconds is 0", "--evaluator local": "leave --evaluator out", UNPLAYABLE: "60000"},
    "bench peers": {"--peers mctx,alphago": "peers is", "--game hex:size=7": "connect_four"},
    "bench sweep": {
        "--over-workers 1,x": "write it like 1,2,8 or 1..128",
        "--over-workers 8..1": "write it like 1,2,8 or 1..128",
        "--over-workers 0": "0 does not lie in 1..1024",
        "--over-max-delay-us -5": "-5 does not lie in 0..60000000",
        "--modes server-thread,failed": "'failed' cannot be swept; choose from server-process",
        "--plan 500": "write it like 500x10000",
        "--point-seconds 0.1": "point-seconds is 0.1",
        "--visits 101": "0..100",
        "--shape cross": "'star', 'grid'",
    },
    "bench soak": {"--faults worker,typo": "hang-server", "--pool thread": "pool is"},
    "profile": {"--seconds 0": "seconds is 0", "--games 0": "games is 0"},
    "tune": {
        "--minutes 1 --seconds 60": "--seconds 60 is given too; give one of them",
        "--seconds 5": "it must lie in 10..1000000",
        "--knobs workers,simulations": "'simulations' is not searched; choose from pool, workers",
        "--knobs ,": "it names nothing to search",
        "--name a/b": "name is 'a/b'",
        "--name blob-light": "choose another --name or give --overwrite",
        "--probe-limit 2": "probe-limit is 2.0",
        UNPLAYABLE: "60000",
    },
}
EACH = {"--game chess": "chess", "--preset blob": "the known presets are blob-diagnostic"}
CASES = [(command, *case) for command, cases in WRONG.items() for case in (EACH | cases).items()]


@pytest.mark.parametrize(("command", "flags", "words"), CASES)
def test_bad_settings_end_with_one_line(
    command: str, flags: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert words in refused(capsys, *command.split(), *flags.split(), "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("command", WRONG)
def test_a_folder_in_use_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").touch()
    assert "'thesis.tex'" in refused(capsys, *command.split(), "--out", tmp_path)
