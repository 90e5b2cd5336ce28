"""Grove in a folder of a user whose modules have the names that every project of this field has."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.command import ROOT, Grove

NAMES = ("bench", "common", "game", "inference_server", "mcts", "records", "workers")
INSTALLED = ("msgpack", "numpy", "random", "torch", "zmq")
"""Names of what Grove itself imports: a file of such a name in the current folder is not meant."""
SMALL = ("--network", "mlp:layers=1,width=8", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
PLAY = ("selfplay", "--games", 4, "--simulations", 4, "--pool", "process", "--out", "run", *SMALL)
MINE = (ROOT / "tests" / "support" / "one_player.py").read_text()


def fill(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / f"{name}.py").write_text("open('imported', 'w')\nraise RuntimeError(__name__)\n")


@pytest.mark.parametrize(("names", "path"), [(NAMES + INSTALLED, ""), (NAMES, ".")])
def test_no_module_of_the_users_is_imported_unasked(grove: Grove, names: tuple[str, ...], path: str) -> None:
    fill(grove.folder, names)
    done = grove.run(*PLAY, "--game", "connect_four", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, ""), done
    grove.exactly(grove.folder / "run", range(4), "connect_four")
    assert not (grove.folder / "imported").exists()


@pytest.mark.parametrize("spec", ["game:Stairs", "game.py:Stairs"])
def test_a_users_game_may_be_called_game_and_import_its_own_common(grove: Grove, spec: str) -> None:
    fill(grove.folder, ("mcts", "workers"))
    mine = MINE.replace("\nclass", "\nimport common\n\nassert common.MINE\n\n\nclass", 1)
    (grove.folder / "game.py").write_text(mine)
    (grove.folder / "common.py").write_text("MINE = True\n")
    done = grove.run(*PLAY, "--game", spec, "--evaluator", "test", PYTHONPATH="")
    assert (done.returncode, done.stderr) == (0, ""), done
    grove.exactly(grove.folder / "run", range(4), spec)


def test_grove_works_in_a_program_that_has_imported_its_own_game(tmp_path: Path) -> None:
    (tmp_path / "game.py").write_text(MINE)
    (tmp_path / "mcts.py").write_text("OWN = True\n")
    script = (
        "import game, mcts\nimport grove\n"
        "summary = grove.selfplay(game.Stairs, games=3, simulations=4, evaluator='test', out='run', quiet=True)\n"
        "positions = [p for g in grove.read_games('run') for p in g.positions(rules='game:Stairs')]\n"
        "print(summary.games, len(positions) > 9, mcts.OWN, grove.Forest.__module__)\n"
    )
    (tmp_path / "own.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 True True grove.mcts.forest\n", ""), done


def test_the_wheel_holds_every_folder_of_the_product_under_one_name() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = table["package-dir"]
    assert set(rooms) == {"grove", *(f"grove.{room}" for room in rooms.values() if room != "grove")}
    found = set()
    for name, folder in rooms.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            below = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((name, *below)))
    assert sorted(table["packages"]) == sorted(found)
