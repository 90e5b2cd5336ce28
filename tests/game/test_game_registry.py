"""Specs: every mistake gives one clear line, and a user's own classes are found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grove.common.errors import ContractError, SettingError
from grove.game import AdaptedGame, canonical_spec, load_game

MISTAKES = {
    "hexx": r"'hexx'.*known games are blob, connect_four, hex; did you mean hex\?",
    "conect_four": r"did you mean connect_four\?",
    "chess": "known games are blob, connect_four, hex; name your own",
    "": "known games are",
    "hex:": "hex takes size, not ''",
    "hex:size": "hex takes size, not 'size'; write e.g. hex:size=7",
    "hex:size=": "hex takes size, not 'size='",
    "hex:width=7": "hex takes size, not 'width=7'",
    "hex:size=7,size=8": "size is given twice",
    "hex:size=1": "1, but it must be 2 to 19; write e.g. hex:size=11",
    "hex:size=20": "20, but it must be 2 to 19",
    "hex:size=-7": "-7, but it must be 2 to 19",
    "hex:size=big": "size must be an integer, not 'big'",
    f"hex:size={'9' * 5000}": "size must be an integer",
    "connect_four:size=7": "connect_four takes no parameters, not 'size=7'; write e.g. connect_four",
    "no_such_module:Game": "importing no_such_module failed .*run from the folder that holds no_such_module",
    "own_games:Nothing": r"own_games has no class Nothing \(it has .*Complete",
    "own_broken:Game": r"importing own_broken failed \(ZeroDivisionError: division by zero\); mend the module",
    "own_needs:Game": r"importing own_needs failed \(ModuleNotFoundError: .*not_installed.*mend the module",
    "own_games:WithArgument": "it is made without arguments",
}

OWN_GAMES = """
from grove.game.connect_four import ConnectFour
class Complete(ConnectFour):
    pass
class Half:
    state_dtype = None
class WithArgument:
    def __init__(self, size):
        pass
class Plain:
    num_players, num_actions, max_moves = 2, 7, 42
    observation_shape, observation_dtype = (2, 6, 7), "uint8"
    def legal_actions(self): ...
    def step(self, action): ...
    def to_play(self): ...
    def utility(self): ...
    def observe(self): ...
class PlainHalf:
    num_players, num_actions, max_moves = 2, 7, 42
    def legal_actions(self): ...
"""


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with modules of a user's own, on an import path that does not hold it."""
    (tmp_path / "own_games.py").write_text(OWN_GAMES)
    (tmp_path / "own_broken.py").write_text("1 / 0")
    (tmp_path / "own_needs.py").write_text("import not_installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "own_games", raising=False)
    return tmp_path


@pytest.mark.parametrize("spec", MISTAKES, ids=lambda spec: spec[:30] or "empty")
def test_mistake_is_one_clear_line(spec: str) -> None:
    with pytest.raises(SettingError, match=MISTAKES[spec]) as caught:
        load_game(spec)
    assert "\n" not in str(caught.value)


def test_canonical_spec_spells_parameters_out() -> None:
    assert canonical_spec("hex") == canonical_spec("hex:size=11") == "hex:size=11"
    assert canonical_spec("hex:size=07") == "hex:size=7"
    assert canonical_spec("connect_four") == "connect_four"
    with pytest.raises(SettingError):
        canonical_spec("hex:size=99")


def test_current_folder_ends_the_import_path(own_modules: Path) -> None:
    game = load_game("own_games:Complete")
    assert game.name == canonical_spec("own_games:Complete") == "own_games:Complete"
    assert sys.path[-1] == str(own_modules)
    assert sys.path.count(str(own_modules)) == 1


def test_a_file_is_loaded_wherever_it_lies_and_whatever_it_is_called(own_modules: Path) -> None:
    """Also one called as a room of Grove's is; what it imports from its own folder is found."""
    away = own_modules / "far away"
    away.mkdir()
    (away / "own_parts.py").write_text("PLANES = 2\n")
    text = "import own_parts\n" + OWN_GAMES.replace("= (2, 6, 7)", "= (own_parts.PLANES, 6, 7)")
    (away / "game.py").write_text(text)
    spec = f"{away / 'game.py'}:Plain"
    game = load_game(spec)
    assert (game.name, game.observation_shape) == (spec, (2, 6, 7))
    assert load_game("own_games:Plain").name == "own_games:Plain"
    assert load_game("./own_games.py:Complete").compiled
    with pytest.raises(SettingError, match=r"No such file .*give the path of the file"):
        load_game("no/such/game.py:Plain")
    with pytest.raises(SettingError, match=r"own_broken.py failed \(ZeroDivisionError"):
        load_game("own_broken.py:Game")


def test_class_with_legal_actions_is_adapted() -> None:
    game = load_game("own_games:Plain")
    assert isinstance(game, AdaptedGame)
    assert (game.name, game.compiled, game.max_legal, game.zero_sum) == ("own_games:Plain", False, 7, False)
    assert game.state_dtype.itemsize == 8 + 4 + 42


def test_incomplete_classes_are_named() -> None:
    with pytest.raises(ContractError, match="own_games:Half is not a complete game; add num_players, num_actions"):
        load_game("own_games:Half")
    with pytest.raises(ContractError, match="own_games:PlainHalf is not a complete Python game; add observation_shape"):
        load_game("own_games:PlainHalf")
