"""What a user can mend: one line on standard error with the remedy, exit status 2, no traceback, nothing lost."""

from __future__ import annotations

import itertools
import pickle
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grove.cli import main
from grove.game import load_game
from grove.inference_server.models.model_file import save_model
from grove.inference_server.networks.networks import build_network
from grove.workers.selfplay.evaluators import row_spec
from tests.support.command import ROOT, Grove

Refused = Callable[..., str]
QUICK = ("selfplay", "--games", 2, "--simulations", 2)
TINY = "resnet:blocks=1,channels=8"

FLAGS = [
    # what is given, what the line must say: the value and the remedy
    (("--game", "conect_four"), ("conect_four", "did you mean connect_four?")),
    (("--game", "chess"), ("chess", "connect_four, hex")),
    (("--game", "connect_four:size=5"), ("connect_four", "no parameters")),
    (("--game", "nosuch.module:Game"), ("nosuch", "run from the folder")),
    (("--game", "blob:players=2"), ("players is 2", "3 to 8")),
    (("--game", "blob:players=8,cards=7"), ("cards is 7", "1 to 6", "share 52 cards")),
    (
        ("--game", "blob:players=3,cards=14", "--network", "blobnet", "--device", "cpu"),
        ("14 cards", "cards=13 or less"),
    ),
    (("--game", "connect_four", "--network", "blobnet", "--device", "cpu"), ("blob games", "resnet:blocks=3")),
    (("--worlds", "0", "--game", "blob:cards=2"), ("worlds is 0", "1..1024")),
    (("--worlds", "2", "--game", "connect_four"), ("worlds is 2", "nothing is hidden in connect_four", "--worlds 1")),
    (("--game", "blob:cards=2", "--worlds", "3", "--simulations-per", "decision"), ("simulations is 2", "--worlds")),
    (("--preset", "blob-lihgt"), ("blob-lihgt", "blob-heavy, blob-light", "did you mean blob-light?")),
    (("--network", "resnet:blocks=0"), ("blocks", "1..80")),
    (("--network", "nosuch:Net"), ("nosuch", "run from the folder that holds nosuch")),
    (("--device", "tpu"), ("tpu", "'auto', 'cpu', 'cuda'")),
    (("--evaluator", "local", "--pool", "thread"), ("thread", "--pool process")),
    (("--games", "0"), ("games is 0", "1..")),
    (("--games", "many"), ("many", "--help")),
    (("--simulations", "0"), ("simulations is 0", "1..1000000")),
    (("--max-batch", "0"), ("max_batch is 0", "1 to 65536")),
    (("--temperature", "hot"), ("hot", '--temperature "0:1,30:0"')),
    (("--frobnicate", "3"), ("frobnicate", "--help")),
    (("--model", "no/such/file"), ("no/such/file", "--model")),
    (("--config", "no/such.toml"), ("no/such.toml", "readable TOML file")),
    (("--config",), ("config", "--help")),
    (
        ("--games-per-worker", "20000", "--games", "100000", "--simulations", "20000", "--groups", "64"),
        ("GiB are free", "use fewer workers, games per worker, worlds or simulations"),
    ),
    (("--games-per-worker", "60000", "--games", "100000"), ("4096", "more --groups")),
]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run `grove` in this process, in a folder of its own; it must end with status 2 and the one line returned."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        errors = capsys.readouterr().err
        assert ended.value.code == 2, errors
        lines = errors.splitlines()
        assert len(lines) == 1, errors
        assert lines[0].startswith("grove: ")
        return lines[0]

    return run


@pytest.mark.parametrize(("flags", "fragments"), FLAGS, ids=[" ".join(flags)[:40] for flags, _ in FLAGS])
def test_flags(tmp_path: Path, refused: Refused, flags: tuple[str, ...], fragments: tuple[str, ...]) -> None:
    line = refused(*QUICK, "--out", tmp_path / "run", *flags)
    for fragment in fragments:
        assert fragment in line
    assert not (tmp_path / "run").exists()  # what is wrong is known before anything is made


def test_cuda_without_cuda(grove: Grove) -> None:
    done = grove.run(*QUICK, "--device", "cuda", "--out", grove.folder / "run", cwd=None)
    if done.returncode == 0:
        pytest.skip("this machine has CUDA")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cuda" in done.stderr
    assert "--device" in done.stderr
    # Mended, the same command works on the same folder.
    grove.play(*QUICK, "--device", "cpu", "--out", grove.folder / "run")


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("simulation = 5", ("'simulation' is no setting", "did you mean simulations?")),
        ("[search]\nsimulations = 5", ("'search' is no setting", "--help")),
        ("simulations = ", ("cannot be read", "readable TOML file")),
        ('simulations = "many"', ("bad.toml: ", "--simulations", "'many'")),
        ("simulations = true", ("bad.toml: ", "--simulations", "'True'")),
        ("\udcff", ("cannot be read", "readable TOML file")),
    ],
)
def test_config_files(tmp_path: Path, refused: Refused, text: str, fragments: tuple[str, ...]) -> None:
    config = tmp_path / "bad.toml"
    config.write_text(text, errors="surrogateescape")
    line = refused(*QUICK, "--config", config, "--out", tmp_path / "run")
    for fragment in fragments:
        assert fragment in line
    assert not (tmp_path / "run").exists()


# -- models and networks -------------------------------------------------------------------------------------------


def test_model_files_that_cannot_be_used(tmp_path: Path, refused: Refused) -> None:
    rows, path = row_spec(load_game("hex:size=5")), tmp_path / "model.safetensors"
    save_model(path, TINY, rows, build_network(TINY, rows).state_dict())
    command = (*QUICK, "--device", "cpu", "--out", tmp_path / "run", "--model", path)
    assert "choose a model of this game" in refused(*command)
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated" in refused(*command, "--game", "hex:size=5")
    path.write_bytes(pickle.dumps({"weights": [1.0]}))
    assert f"{path} is a pickle" in refused(*command)


def test_a_users_network_that_does_not_fit(grove: Grove) -> None:
    (grove.folder / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self, s):\n        super().__init__(); self.w = nn.Linear(1, 1); self.spec = s\n"
        "    def forward(self, x):\n        return torch.zeros(len(x), 3), torch.zeros(len(x), 1)\n"
    )
    line = grove.refused(*QUICK, "--device", "cpu", "--network", "mine:Net", "--out", grove.folder / "run")
    assert "(2, 3)" in line
    assert "return logits [B, 7] and values [B, 1]" in line


# -- a user's game -------------------------------------------------------------------------------------------------

NUMBERS = itertools.count()
SOUND = (ROOT / "tests" / "support" / "sticks.py").read_text()
BREAKS = [
    ("[1 if seat == winner else -1", "[2 if seat == winner else -2", "utilit"),
    ("return range(min(2, self.left))", "return 1 / 0", "division"),
    ("class Sticks:", "raise RuntimeError('no licence')\nclass Sticks:", "no licence"),
    ("class Sticks:", "class Stacks:", "Stacks"),
]


@pytest.mark.parametrize(("old", "new", "fragment"), BREAKS, ids=[fragment for *_, fragment in BREAKS])
def test_a_users_game_that_breaks_the_contract(
    tmp_path: Path, refused: Refused, old: str, new: str, fragment: str
) -> None:
    assert old in SOUND
    module = f"sticks{next(NUMBERS)}"  # imported once a process
    (tmp_path / f"{module}.py").write_text(SOUND.replace(old, new))
    line = refused(*QUICK, "--game", f"{module}:Sticks", "--evaluator", "test", "--out", tmp_path / "run")
    assert fragment in line
    assert not (tmp_path / "run").exists()


def test_a_game_that_fails_in_the_middle_of_a_run_ends_it_with_its_words(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` cannot find everything; what the workers say reaches the user, without a traceback."""
    monkeypatch.setattr("grove.workers.pool.supervision.MOST_RESTARTS", 1)
    broken = SOUND.replace("        self.moves += 1\n", "        self.moves += 1\n        count()\n")
    late = """
import pathlib

CALLS = pathlib.Path("calls")


def count():
    CALLS.write_text(CALLS.read_text() + "x" if CALLS.exists() else "x")
    if len(CALLS.read_text()) > 2000:
        1 / 0
"""
    (tmp_path / "late_sticks.py").write_text(broken + late)
    line = refused(
        *("selfplay", "--games", 500, "--simulations", 9, "--game", "late_sticks:Sticks", "--evaluator", "test"),
        *("--workers", 1, "--pool", "process", "--out", tmp_path / "run"),
    )
    assert "ZeroDivisionError: division by zero" in line
    assert "late_sticks.py:" in line


# -- commands and sockets ------------------------------------------------------------------------------------------


def test_unknown_commands(refused: Refused) -> None:
    for command in (("selfply",), ("bench", "comprae"), ("--frobnicate",)):
        assert "`grove --help`" in refused(*command)


def test_watching_what_is_no_run(tmp_path: Path, refused: Refused) -> None:
    assert "config.toml is not there); give a run folder" in refused("watch", tmp_path)
    assert "0..65535" in refused("watch", tmp_path, "--web", "--port", 70000)
    assert "add --web" in refused("watch", tmp_path, "--port", 7000)
    assert "grove watch --help" in refused("watch")


def test_an_endpoint_in_use(refused: Refused) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        line = refused("serve", "--device", "cpu", "--network", TINY, "--dtype", "fp32", "--bind", endpoint)
    assert endpoint in line
    assert "stop it or choose another endpoint" in line


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:7447", "here", "ipc:///no/such/folder/s"])
def test_an_endpoint_that_cannot_be_served(refused: Refused, endpoint: str) -> None:
    line = refused("serve", "--device", "cpu", "--network", TINY, "--dtype", "fp32", "--bind", endpoint)
    assert endpoint in line


@pytest.mark.parametrize("indices", ["5:5", "9:3", "a:b", "7", "-1:4"])
def test_index_ranges_that_are_none(tmp_path: Path, refused: Refused, indices: str) -> None:
    line = refused("work", "--connect", "tcp://127.0.0.1:1", f"--indices={indices}", "--out", tmp_path / "r")
    assert "A:B" in line
    assert indices in line


def test_showing_what_is_not_there(grove: Grove) -> None:
    assert grove.refused("show", grove.folder / "nothing", "--game", 1)
    out = grove.folder / "run"
    grove.play(*QUICK, "--evaluator", "test", "--out", out)
    assert "give the index of one of them" in grove.refused("show", out, "--game", 99)
