"""The run folder: what it holds, when it resumes, what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from grove.common.errors import RecordError, SettingError
from grove.records.log import GameLog
from grove.run.folder import RunFolder, write_whole
from tests.records.test_records import make_record

SETTINGS: dict[str, Any] = {
    "game": "hex:size=7",
    "games": 500,
    "workers": 4,
    "simulations": 100,
    "c_puct": 1.25,
    "cache": True,
    "model": None,
    "network": {"kind": "resnet", "blocks": 3},
}


def open_run(path: Path, **changes: Any) -> RunFolder:
    return RunFolder.open_or_create(path, SETTINGS | changes, command=["grove", "selfplay"])


@pytest.mark.parametrize("bad", [object(), "\ud800"])
def test_settings_that_no_file_can_hold_are_refused(tmp_path: Path, bad: object) -> None:
    with pytest.raises(SettingError, match="use plain values"):
        open_run(tmp_path / "run", model=bad)


def test_new_folder_holds_what_the_design_names(tmp_path: Path) -> None:
    with open_run(tmp_path / "runs" / "first") as run:
        assert not run.resumed
        assert (run.path / "lock").read_text().strip() == str(os.getpid())
        run.write_metrics({"games": 3})
        run.write_metrics({"games": 5})
        run.log("two\nlines")
        assert run.write_summary({"games": 5}) == run.path / "summary.json"
    names = {"config.toml", "run.json", "games", "metrics.jsonl", "log.txt", "summary.json"}
    assert {item.name for item in run.path.iterdir()} == names
    assert [json.loads(line)["games"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [3, 5]
    assert len((run.path / "log.txt").read_text().splitlines()) == 3
    recorded = tomllib.loads((run.path / "config.toml").read_text())
    assert recorded == {key: value for key, value in SETTINGS.items() if value is not None} | {"seed": run.seed}
    start = json.loads((run.path / "run.json").read_text())
    assert start["seed"] == run.seed
    assert start["command"] == ["grove", "selfplay"]
    assert start["machine"]["cores"] >= 1
    assert {"version", "commit", "dirty", "time"} <= start.keys()


def test_resume_keeps_the_drawn_seed_and_allows_what_may_differ(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as first:
        seed = first.seed
    with open_run(tmp_path / "run", games=900, workers=1) as second:
        assert second.resumed
        assert second.seed == seed
        assert second.settings["games"] == 900
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["games"] == 900
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["resumes"]) == 1
    with pytest.raises(SettingError, match=f"seed: {seed} -> 0"):
        open_run(tmp_path / "run", seed=0)


def test_other_settings_are_refused_with_every_difference(tmp_path: Path) -> None:
    open_run(tmp_path / "run").close()
    before = (tmp_path / "run" / "config.toml").read_bytes()
    with pytest.raises(SettingError) as caught:
        open_run(tmp_path / "run", simulations=200, model="a.safetensors", network={"kind": "mlp", "blocks": 3})
    text = str(caught.value)
    assert "simulations: 100 -> 200" in text
    assert "model: (not set) -> 'a.safetensors'" in text
    assert "network.kind: 'resnet' -> 'mlp'" in text
    assert "--out" in text
    assert "\n" not in text
    assert (tmp_path / "run" / "config.toml").read_bytes() == before
    assert not (tmp_path / "run" / "lock").exists()


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    with pytest.raises(SettingError, match=f"in use by process {os.getpid()}"):
        open_run(tmp_path / "run")
    run.close()
    run.close()
    open_run(tmp_path / "run").close()


def test_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(SettingError, match=r"thesis\.tex"):
        open_run(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_half_made_folder_is_finished_and_empty_logs_go(tmp_path: Path) -> None:
    (tmp_path / "run" / "games").mkdir(parents=True)
    (tmp_path / "run" / "games" / "w0.jsonl").touch()
    with GameLog(tmp_path / "run" / "games" / "w1.jsonl") as log:
        log.append(make_record())
    with open_run(tmp_path / "run") as run:
        assert not run.resumed
        assert [path.name for path in run.games.iterdir()] == ["w1.jsonl"]


def test_what_killed_processes_left_half_written_goes(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    slot = tmp_path / "run" / "models" / "best"
    slot.mkdir(parents=True)
    (tmp_path / "run" / "games").mkdir()
    left = [f"games/.w0.jsonl.{ended.pid}.tmp", f".run.json.{ended.pid}.tmp", f"models/.net.{ended.pid}.part"]
    left += [f"models/best/.net.safetensors.{ended.pid}.part"]
    for name in left:
        (tmp_path / "run" / name).touch()
    (slot / f".net.{os.getpid()}.part").touch()  # is being copied
    with open_run(tmp_path / "run") as run:
        assert not [name for name in left if (run.path / name).exists()]
        assert len(list(slot.iterdir())) == 1


def test_the_names_of_all_new_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, real = set(), os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with open_run(tmp_path / "runs" / "new" / "first") as run:
        assert {path.stat().st_ino for path in (tmp_path, *run.path.parents[:2], run.path)} <= synced


def test_damaged_files_are_named(tmp_path: Path) -> None:
    open_run(tmp_path / "run").close()
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(RecordError, match=r"run\.json"):
        open_run(tmp_path / "run")
    (tmp_path / "run" / "config.toml").write_text("a = ")
    with pytest.raises(RecordError, match=r"config\.toml"):
        open_run(tmp_path / "run")


def test_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RecordError, match="writable folder as --out"):
            open_run(path)


def test_whole_file_is_replaced_or_untouched(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["summary.json"]
