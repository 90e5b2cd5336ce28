"""The watched folder: which file is served, what is refused, what is remembered; with a real network."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grove.commands.model import List, Push, Rollback, list_models, push, rollback
from grove.common.errors import ModelError, SettingError
from grove.inference_server import InferenceServer, ServerSettings, model_watch
from grove.inference_server.backends.backend import ModelFiles, make_backends
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.model_watch import ModelWatch
from grove.inference_server.models.model_file import save_model
from grove.inference_server.models.model_folder import ModelFolder, Process, Status
from grove.inference_server.networks.networks import build_network
from tests.support.network_rows import FOUR, THREE, rows_of

SPEC = "mlp:layers=1,width=8"
NETWORK = NetworkSettings(network=SPEC, device="cpu", dtype="fp32", compile="off")
Eventually = Callable[[Callable[[], Any]], Any]


class House:
    """A server that watches a folder."""

    def __init__(self, server: InferenceServer, folder: Path, files: ModelFiles) -> None:
        self.server, self.folder, self.files = server, ModelFolder(folder), files
        self.watch = ModelWatch(server, folder, files)

    @property
    def version(self) -> str:
        return self.server.model_version

    @property
    def status(self) -> Status:
        return self.folder.read_status()

    def refusal(self, name: str) -> str:
        """Why a file is refused, as far as it is known."""
        verdict = self.status.files.get(name)
        return verdict.reason if verdict else ""

    def answer(self) -> tuple[str, np.ndarray]:
        client = self.server.connect(1)
        client.submit(rows_of(FOUR, 3))
        reply = client.collect(60)
        client.close()
        assert reply is not None
        return reply.version, reply.logits


@contextmanager
def serving(folder: Path, start: bool = True, **settings: Any) -> Iterator[House]:
    backends = make_backends(FOUR, NETWORK, 32, 1)
    with InferenceServer(FOUR, backends, ServerSettings(max_batch=32, **settings)) as server:
        house = House(server, folder, ModelFiles(FOUR, NETWORK))
        if start:
            with house.watch:
                yield house
        else:
            yield house


def export(path: Path, seed: int, spec: str = SPEC, change: Callable[[dict[str, Any]], None] | None = None) -> str:
    """Write a model file and return its version."""
    state = dict(build_network(spec, FOUR, seed).state_dict())
    if change is not None:
        change(state)
    return save_model(path, spec, FOUR, state)


def spoil(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    """Put `value` where a weight was."""

    def change(state: dict[str, Any]) -> None:
        state[name] = state[name].clone()
        state[name].view(-1)[0] = value

    return change


def test_the_newest_file_is_served_and_its_answers_are_its_own(tmp_path: Path, eventually: Eventually) -> None:
    with serving(tmp_path) as house:
        first = house.answer()
        version = export(tmp_path / "one.safetensors", 1)
        eventually(lambda: house.version == version)
        found, logits = house.answer()
        assert found == version != first[0]
        with torch.inference_mode():
            wanted = build_network(SPEC, FOUR, 1)(torch.from_numpy(rows_of(FOUR, 3)))[0].numpy()
        np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
        start, now = eventually(lambda: len(served := house.status.served["default"]) == 2 and served)
        assert (now.version, now.file) == (version, "one.safetensors")
        assert (start.version, start.file) == (first[0], f"start-{first[0]}.safetensors")
        assert any(f"model {version}" in line for line in house.server.new_problems())


BAD = {
    "another architecture": (lambda path: export(path, 2, "mlp:layers=2,width=8"), "those of another network"),
    "NaN weights": (lambda path: export(path, 2, change=spoil("hidden.0.weight", float("nan"))), "hold NaN|not finite"),
    "infinite answers": (lambda path: export(path, 2, change=spoil("policy_linear.bias", float("inf"))), "not finite"),
    "another game": (
        lambda path: save_model(path, SPEC, THREE, build_network(SPEC, THREE).state_dict()),
        "made for game three",
    ),
    "a pickle": (lambda path: torch.save({"a": 1}, path), "is a pickle"),
    "noise": (lambda path: path.write_bytes(b"\xff" * 999), "truncated or not safetensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_reason_and_the_former_model_serves_on(
    name: str, tmp_path: Path, eventually: Eventually
) -> None:
    make, reason = BAD[name]
    with serving(tmp_path) as house:
        before = house.answer()
        make(tmp_path / "bad.safetensors")
        assert re.search(reason, eventually(lambda: house.refusal("bad.safetensors")))
        version, logits = house.answer()
        assert version == before[0]
        assert np.array_equal(logits, before[1])
        assert house.server.stats()["errors"] == {"refused_model": 1}


def test_a_file_that_somebody_writes_is_waited_for_and_one_that_stays_short_is_refused(
    tmp_path: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    load = ModelFiles.load
    monkeypatch.setattr(ModelFiles, "load", lambda self, path: loads.append(path) or load(self, path))
    version = export(tmp_path / "aside", 1)
    whole = (tmp_path / "aside").read_bytes()
    path = tmp_path / "half.safetensors"
    hour = 3600 * 10**9
    with serving(tmp_path) as house:
        before = house.version
        for length in (0, 5, 100, len(whole) - 1):
            path.write_bytes(whole[:length])
            os.utime(path, ns=(time.time_ns() + hour, time.time_ns() + hour))  # as if it had just changed
            seen = len(loads)
            eventually(lambda seen=seen: len(loads) > seen)
        assert house.version == before
        assert house.server.stats()["errors"] == {}
        path.write_bytes(whole)
        eventually(lambda: house.version == version)
        path.with_name("short.safetensors").write_bytes(whole[:-1])
        eventually(lambda: "truncated" in house.refusal("short.safetensors"))


def test_names_that_begin_with_a_dot_and_other_files_are_left_alone(tmp_path: Path) -> None:
    export(tmp_path / ".part.safetensors", 1)
    export(tmp_path / "net.bin", 1)
    (tmp_path / "folder.safetensors").mkdir()
    with serving(tmp_path) as house:
        assert (house.status.files, house.server.new_problems()) == ({}, [])


def test_a_server_that_is_started_again_goes_on_with_its_model(tmp_path: Path, eventually: Eventually) -> None:
    with serving(tmp_path) as house:
        start = house.version
        version = export(tmp_path / "one.safetensors", 1)
        eventually(lambda: house.version == version)
    with serving(tmp_path) as house:
        assert house.answer()[0] == version
        assert [served.version for served in house.status.served["default"]] == [start, version]
        assert house.status.server == Process.this()
    assert ModelFolder(tmp_path).read_status().server is None


@pytest.mark.parametrize("text", ["", "[]", '{"server": 3}', '{"served": {"default": [{}]}}', "[" * 100_000])
def test_a_status_that_is_none_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    version = export(tmp_path / "one.safetensors", 1)
    with serving(tmp_path) as house:
        assert house.version == version
        assert json.loads((tmp_path / "status.json").read_text())["files"]["one.safetensors"]["version"] == version


def test_a_server_can_be_left_while_a_model_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_watch, "_END_S", 0.2)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(server: InferenceServer, *_: Any) -> None:
        hangs.set()
        goes_on.wait(60)

    with serving(tmp_path):
        monkeypatch.setattr(InferenceServer, "swap", hang)
        export(tmp_path / "one.safetensors", 1)
        assert hangs.wait(60)
    goes_on.set()
    assert ModelFolder(tmp_path).read_status().server is not None  # its thread was not waited for


def test_push_list_and_rollback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, folder = tmp_path / "files", tmp_path / "run" / "models"
    files.mkdir()
    folder.mkdir(parents=True)
    (folder.parent / "config.toml").touch()
    run = str(folder.parent)
    versions = {seed: export(files / f"{seed}.safetensors", seed) for seed in (1, 2)}
    export(files / "bad.safetensors", 3, change=spoil("policy_linear.bias", float("nan")))
    with serving(folder) as house:
        start = house.version
        for seed, version in versions.items():
            assert push(Push(file=str(files / f"{seed}.safetensors"), target=run)) == 0
            assert house.version == version
            assert f"served by {version}" in capsys.readouterr().out
        with pytest.raises(ModelError, match="refused, default keeps its model"):
            push(Push(file=str(files / "bad.safetensors"), target=run))
        assert house.version == versions[2]
        for wanted in (versions[1], start):
            assert rollback(Rollback(target=run)) == 0
            assert house.version == house.answer()[0] == wanted
        with pytest.raises(SettingError, match="no model before the present one"):
            rollback(Rollback(target=run))
        assert rollback(Rollback(target=run, to=versions[2][:6])) == 0
        assert house.version == versions[2]
        endpoint = house.server.bind("tcp://127.0.0.1:*")
        assert push(Push(file=str(files / "1.safetensors"), target=endpoint)) == 0  # it lies there already
        assert house.version == versions[1]
        capsys.readouterr()
        assert list_models(List(target=endpoint)) == 0
        told = capsys.readouterr().out
        assert f"default  serves  {versions[1]}" in told
        assert "a server works on it" in told
        with pytest.raises(SettingError, match="only default are served"):
            push(Push(file=str(files / "1.safetensors"), target=run, slot="best"))
    assert push(Push(file=str(files / "2.safetensors"), target=run)) == 0
    assert "no server works on this folder now" in capsys.readouterr().out
    with serving(folder) as house:
        assert house.version == versions[2]


def test_slots_have_folders_of_their_own(tmp_path: Path, eventually: Eventually) -> None:
    one, two = export(tmp_path / "aside", 1), export(tmp_path / "other", 2)
    with serving(tmp_path, start=False) as house:
        house.server.swap(house.files.load(tmp_path / "aside"), "best")
        with house.watch:
            start = house.version
            assert house.server.models() == {"default": start, "best": one}
            assert push(Push(file=str(tmp_path / "other"), target=str(tmp_path), slot="best")) == 0
            assert house.server.models() == {"default": start, "best": two}
            assert rollback(Rollback(target=str(tmp_path), slot="best")) == 0
            assert house.server.models() == {"default": start, "best": one}
            assert house.status.served["best"][-1].file == f"best/start-{one}.safetensors"
            assert rollback(Rollback(target=str(tmp_path), slot="best", to=two)) == 0
            assert house.server.models() == {"default": start, "best": two}
            shutil.copy(tmp_path / "aside", tmp_path / "plain.safetensors")
            eventually(lambda: house.server.models() == {"default": one, "best": two})
