"""Presets: named loads between the defaults and the config file, shipped with the package or the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from grove.commands.bench import Compare
from grove.common.errors import SettingError
from grove.game import load_game
from grove.inference_server.interface.network_settings import NetworkSettings, default_network, resolve_network
from grove.run import preset
from grove.run.settings import SelfPlay, Serve, Work, flatten, parse
from grove.workers.selfplay.evaluators import row_spec

LOADS = {"diagnostic": (3, 3, 10), "light": (5, 2, 20), "medium": (5, 3, 30), "heavy": (5, 5, 50)}
COMMANDS = pytest.mark.parametrize("command", [SelfPlay, Compare, Serve, Work])


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's preset folder, of which the config folder is this test's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "grove" / "presets"
    folder.mkdir(parents=True)
    return folder


def parsed(command: type, *flags: str) -> dict[str, object]:
    return flatten(parse(command, flags, "grove"))


@pytest.mark.parametrize("load", LOADS)
def test_shipped_presets_are_the_origins_loads(load: str) -> None:
    cards, worlds, simulations = LOADS[load]
    found = parsed(Compare, "--preset", f"blob-{load}")
    assert found["game"] == f"blob:players=4,cards={cards}"
    assert load_game(str(found["game"])).units == {"rounds": 1}
    assert (found["worlds"], found["simulations"]) == (worlds, simulations)
    assert (found["c_puct"], found["noise_fraction"], found["noise_alpha"]) == (1.5, 0.25, 0.3)
    assert (found["temperature"], found["cache"], found["network"]) == ("0:1,10:0.5,20:0.1", 0, "blobnet")
    assert preset.known()[f"blob-{load}"].read_text().startswith("# ")


def test_defaults_then_preset_then_file_then_flags(own: Path) -> None:
    (own / "mine.toml").write_text("# mine\nsimulations = 7\nc_puct = 3\nmax_batch = 64\n")
    config = own / "config.toml"
    config.write_text('c_puct = 4\nmax_batch = 32\npreset = "blob-heavy"\n')
    found = parsed(SelfPlay, "--preset", "mine", "--config", str(config), "--max-batch", "16")
    assert (found["leaves"], found["simulations"], found["c_puct"], found["max_batch"]) == (1, 7, 4, 16)
    assert found["preset"] == "mine"
    named = parsed(SelfPlay, "--config", str(config))
    assert (named["worlds"], named["c_puct"]) == (5, 4)


@COMMANDS
def test_every_command_takes_what_is_its_own(command: type, own: Path) -> None:
    (own / "mine.toml").write_text('# mine\ngame = "hex:size=5"\nsimulations = 7\nmax_batch = 64\nseconds = 9.0\n')
    wanted = {"game": "hex:size=5", "simulations": 7, "max_batch": 64, "seconds": 9.0}
    found = parsed(command, "--preset=mine")
    taken = {key for key in wanted if key in found}
    assert {key: found[key] for key in taken} == {key: wanted[key] for key in taken}
    assert taken, "every command has some of these"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("simulation = 5", "'simulation' is no setting of any command; did you mean simulations?"),
        ("simulations = ", "mine.toml cannot be read"),
        ("simulations = true", "preset mine: .*--simulations.* 'True'"),
    ],
)
def test_faults_in_a_users_preset(own: Path, text: str, words: str) -> None:
    (own / "mine.toml").write_text(text)
    with pytest.raises(SettingError, match="(?s)" + words.replace("?", r"\?")):
        parsed(SelfPlay, "--preset", "mine")


def test_a_preset_that_is_not_there() -> None:
    for name in ("../presets/blob-light", "blob", "", "/etc/passwd"):
        with pytest.raises(SettingError, match="presets are blob-diagnostic, blob-heavy, blob-light"):
            parsed(SelfPlay, "--preset", name)


def test_the_network_follows_the_rows() -> None:
    boards, hidden, flat = "resnet:blocks=3,channels=32", "blobnet", "mlp:layers=2,width=128"
    games = {"hex:size=5": boards, "blob:players=5,match=7": hidden, "blob:players=3,cards=17": flat}
    given = NetworkSettings(network="mlp:layers=1,width=8")
    for spec, network in games.items():
        rows = row_spec(load_game(spec))
        settings, why = resolve_network(NetworkSettings(), rows)
        assert (default_network(rows), settings) == (network, NetworkSettings(network=network))
        assert why.startswith("auto: ")
        assert resolve_network(given, rows) == (given, "as asked for")
