"""A model takes over in the middle of a run: every move names its model, and none is unknown."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grove.commands.model import Push, Rollback, push, rollback
from grove.commands.serve import named_models
from grove.common.errors import ModelError, SettingError
from grove.game import load_game
from grove.inference_server.models.model_file import model_version, save_model
from grove.inference_server.models.model_folder import ModelFolder
from grove.inference_server.networks.networks import build_network
from grove.records.record import read_folder
from grove.run.settings import Serve, parse
from grove.workers.selfplay.evaluators import row_spec
from tests.support.command import Grove

SPEC, GAME = "mlp:layers=1,width=8", "hex:size=3"
RUN = ("selfplay", "--game", GAME, "--simulations", 8, "--workers", 2, "--games-per-worker", 8, "--games", 1_000_000)
NETWORK = ("--network", SPEC, "--device", "cpu", "--dtype", "fp32", "--compile", "off")
Eventually = Callable[[Callable[[], Any]], Any]


def seen(out: Path) -> set[str]:
    """Return the models named in the games so far, lines half written left out."""
    records = read_folder(out / "games", [])
    return {model for record in records for model in record.models if model is not None}


@pytest.mark.parametrize("pool", ["thread", "process"])
def test_a_model_pushed_into_a_run(grove: Grove, eventually: Eventually, pool: str) -> None:
    out, rows = grove.folder / "run", row_spec(load_game(GAME))
    start = model_version(SPEC, rows, build_network(SPEC, rows, 0).state_dict())
    new = save_model(grove.folder / "new", SPEC, rows, build_network(SPEC, rows, 1).state_dict())
    save_model(grove.folder / "bad", "mlp:layers=0", rows, build_network("mlp:layers=0", rows).state_dict())
    run = grove.start(*RUN, *NETWORK, "--pool", pool, "--out", out)
    eventually(lambda: start in seen(out) or run.poll() is not None)
    assert push(Push(file=str(grove.folder / "new"), target=str(out))) == 0
    with pytest.raises(ModelError, match="those of another network"):
        push(Push(file=str(grove.folder / "bad"), target=str(out)))
    eventually(lambda: new in seen(out) or run.poll() is not None)
    if pool == "thread":
        assert f"is served by {start} again" in grove.play("model", "rollback", out)
    else:
        assert rollback(Rollback(target=str(out))) == 0
    os.killpg(run.pid, signal.SIGINT)
    done = grove.end(run)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert {model for record in Grove.read(out) for model in record.models} - {None} == {start, new}
    log = (out / "log.txt").read_text()
    assert f"model {new} from " in log
    assert "is refused" in log
    status = ModelFolder(out / "models").read_status()
    assert (status.server, status.served["default"][-1].version) == (None, start)


def test_settings_that_are_gone_say_what_to_use(grove: Grove) -> None:
    line = grove.refused(*RUN, *NETWORK, "--swap", "between-games", "--out", grove.folder / "run")
    assert "--swap is gone: a new model takes over with the next rows" in line


@pytest.mark.parametrize(
    ("pairs", "words"),
    [(["best"], "NAME=FILE"), (["default=x"], "a slot default already"), (["a=1", "a=2"], "a slot a")],
)
def test_slots_that_cannot_be_served(pairs: list[str], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        named_models(pairs)


def test_slots_as_they_are_given() -> None:
    given = ["--model-slot", "a=1.safetensors", "--model-slot", "b=x=y"]
    settings = parse(Serve, given, "grove serve")
    assert named_models(settings.model_slot) == [("a", Path("1.safetensors")), ("b", Path("x=y"))]
