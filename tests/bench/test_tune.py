"""`grove tune`: what it concludes, the preset; a real one that Ctrl-C ends.

test_tune_space.py has what it may try and tries first; test_readme.py makes a whole one.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from rich.console import Console

from grove.bench.core.estimate import Played
from grove.bench.core.probe import Probe
from grove.bench.core.rounds import Round
from grove.bench.core.slices import Slice
from grove.bench.tune.chart import draw_tuned
from grove.bench.tune.found import DEFAULT, Trial, Tuned
from grove.bench.tune.gain import gain_of, interval
from grove.bench.tune.report import finding, print_tuned, rows
from grove.bench.tune.screen import TuneScreen
from grove.bench.tune.search import enough
from grove.commands.tune import Tune, preset_settings
from grove.common.errors import SettingError
from grove.run import preset
from grove.run.settings import SelfPlay, flatten, parse
from tests.support.measuring_tools import MLP, content, exits, refused
from tests.support.tune_tools import BASE, network_alone

TINY = (
    *MLP,
    *("--simulations", "4", "--games-per-worker", "32", "--groups", "2", "--lanes", "1", "--max-batch", "64"),
    *("--pool", "thread", "--workers", "1", "--probe-limit", "1"),
)


# -- what is concluded -------------------------------------------------------------------------------------------------


def a_slice(simulations: float) -> Slice:
    return Slice(1.0, {"evaluations": 0.9 * simulations, "simulations": simulations}, {}, 1.0)


def a_round(default: float, best: float, probe: float = 1.0) -> Round:
    probes = (Probe(probe, 2 * probe, 2), Probe(probe, 2 * probe, 2))
    return Round(probes, 0.0, {DEFAULT: a_slice(default), "trial 1": a_slice(best)})


def tuned(ratios: list[float], probe: float = 1.0) -> Tuned:
    """A tuning whose best trial came to `ratios` in the last rounds, the first of which had another `probe`."""
    pairs = [(a_slice(120.0), a_slice(100.0))]
    one = Trial(number=1, why="searched", choice=BASE._replace(groups=2), pairs=pairs, seconds=9.0)
    failed = Trial(number=2, why="searched", choice=BASE, state="failed", note="no memory")
    found = Tuned(default=BASE, network=network_alone(), trials=[one, failed], seconds=60.0)
    found.rounds = [a_round(100.0, 100 * r, probe if i == 0 else 1.0) for i, r in enumerate(ratios)]
    found.finalists = {"trial 1": one} if ratios else {}
    found.gains = {name: gain_of(found.rounds, name, DEFAULT, 0.1) for name in found.finalists}
    return found


@pytest.mark.parametrize(
    ("count", "ends", "confidence"), [(1, (1, 1), 0), (3, (1, 3), 0.75), (7, (1, 7), 0.984), (9, (2, 8), 0.961)]
)
def test_the_interval_is_the_one_of_a_median(count: int, ends: tuple[int, int], confidence: float) -> None:
    low, high, found = interval([float(value) for value in range(count, 0, -1)])
    assert (low, high) == ends
    assert found == pytest.approx(confidence, abs=0.001)


def test_a_gain_must_be_worth_it_and_no_chance() -> None:
    good = tuned([1.2, 1.3, 1.26, 1.22, 1.28, 1.24, 1.9], probe=2.0)
    assert good.gain is not None
    assert good.gain.median == pytest.approx(1.27)
    assert (good.gain.low, good.gain.rounds, good.gain.dropped) == (1.22, 6, 1)
    assert good.winner == BASE._replace(groups=2)
    assert finding(good).startswith("Tuned settings play at 1.27x the default [1.22, 1.90] (97 %, 6 rounds) (1 setting")
    for ratios in ([1.01] * 7, [1.2, 1.3, 0.9, 1.2, 1.2, 1.2, 1.2]):
        same = tuned(ratios)
        assert same.winner == BASE
        assert finding(same).startswith("The default is as good: the best of 1 setting tried came to")


@pytest.mark.parametrize(
    ("ratios", "probe", "interrupted", "said"),
    [
        ([], 1.0, False, "The default is as good: none of 1 setting tried"),
        ([], 1.0, True, "Stopped early: the best so far was at 1.20x the default in a short trial"),
        ([1.2, 1.3, 1.26, 1.22, 1.28, 1.24], 2.0, False, "Nothing is concluded: fewer than 6 rounds were quiet"),
        ([1.2] * 3, 1.0, False, "1.20x the default [1.20, 1.20] (75 %, 3 rounds)"),
    ],
)
def test_what_cannot_be_concluded_is_said(ratios: list[float], probe: float, interrupted: bool, said: str) -> None:
    found = tuned(ratios, probe)
    found.interrupted = interrupted
    assert found.winner == BASE
    assert said in finding(found)


def test_the_last_measurement_goes_on_until_enough_is_quiet_but_not_for_ever() -> None:
    quiet, busy = a_round(100, 120), [a_round(100, 120, probe) for probe in (1.5, 2.0)]
    cases = ([], False), ([quiet] * 5, False), ([quiet] * 6, True), ([*[quiet] * 5, *busy], False)
    for rounds, done in (*cases, ([*[quiet] * 6, *busy], True), ([*[quiet] * 5, *busy * 4], True)):
        assert enough(rounds, 6, 0.1) == done


STEADY = {"games": 40.0, "decisions": 400.0, "in_progress": 100.0, "simulations": 50 * 450.0, "moves": 400.0}
"""400 decisions of 50 simulations each and 100 half-made ones."""


def test_rows_and_chart_of_all_kinds_of_trials(tmp_path: Path) -> None:
    found = tuned([1.2, 1.3, 1.25, 1.22, 1.28, 1.24])
    found.trials.append(Trial(number=3, why="searched", choice=BASE, state="cut", pairs=[(a_slice(60), a_slice(100))]))
    found.trials.append(Trial(number=4, why="searched", state="skipped", note="too large"))
    found.trials[0].expected = 1.5
    found.played = [Played.of(STEADY, [10] * 40)]
    first, failed, cut, skipped = rows(found, {"matches": 1, "rounds": 18})
    assert (first["by_default"], first["matches_per_minute"], first["rounds_per_minute"]) == (1.2, 14.4, 14.4 * 18)
    assert (first["expected_by_default"], failed["expected_by_default"]) == (1.5, None)
    said = io.StringIO()
    print_tuned(found, {"matches": 1, "rounds": 18}, Console(file=said, width=200))
    assert "searched: expected 1.50x the default, measured 1.20x [1.20, 1.20]\n" in said.getvalue()
    assert (failed["note"], failed["by_default"], failed["simulations_per_second"]) == ("no memory", None, None)
    assert (cut["state"], cut["by_default"], skipped["workers"]) == ("cut", 0.6, None)
    picture = imread(draw_tuned(found, tmp_path / "chart.png", title=finding(found)))[..., :3]
    assert picture.shape[1] == 1800
    assert all((edge == 1.0).all() for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]))


@pytest.mark.parametrize("terminal", [True, False])
def test_the_screen_shows_what_is_tried_and_found(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=150, highlight=False)
    trial = tuned([]).trials[0]
    with TuneScreen(console, 100.0) as screen:
        screen.begins(trial, 50.0)
        screen.ended(trial)
    shown = out.getvalue()
    assert "1.20x" in shown
    assert "1 thread x 2048 games in 2 groups" in shown
    assert ("left, 1 tried" in shown) == terminal


# -- the preset --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the user's own presets."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "grove" / "presets"


def test_a_preset_holds_the_load_and_what_was_searched(own: Path) -> None:
    asked_for = parse(Tune, ["--game", "hex:size=5", "--simulations", "30", "--reuse", "--name", "mine"], "grove")
    found = tuned([1.2] * 6)
    path = preset.write_preset("mine", "hex\nfor me", preset_settings(asked_for, found))
    assert path == own / "mine.toml"
    assert path.read_text().startswith("# hex for me\n")
    settings = flatten(parse(SelfPlay, ["--preset", "mine"], "grove"))
    wanted = found.winner._asdict() | {"game": "hex:size=5", "simulations": 30, "reuse": True, "preset": "mine"}
    assert {name: settings[name] for name in wanted} == wanted
    usual = flatten(parse(SelfPlay, [], "grove"))
    assert {name for name in usual if settings[name] != usual[name]} <= set(wanted)


def test_names_are_checked(own: Path) -> None:
    preset.check_new("mine-2.0_b", overwrite=False)
    for name in ("", "../mine", "a/b", ".mine", "x" * 65, "mine\n"):
        with pytest.raises(SettingError, match="letters, digits, dots"):
            preset.check_new(name, overwrite=True)
    preset.write_preset("mine", "mine", {"game": "connect_four"})
    for name in ("mine", "blob-light"):
        with pytest.raises(SettingError, match=r"is there; choose another --name or give --overwrite"):
            preset.check_new(name, overwrite=False)
        preset.check_new(name, overwrite=True)


# -- what a user can mend ----------------------------------------------------------------------------------------------


def test_without_optuna(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'optuna>=4'" in refused(capsys, "tune")


# -- real ones ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupt_ends_with_the_best_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TuneScreen, "ended", interrupt)  # as Ctrl-C after the first trial
    assert exits("tune", *TINY, "--knobs", "games-per-worker,groups", "--seconds", 30, "--out", out) == 0
    said = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["chart.png", "results.json", "run.json", "trials.csv"]
    results, run = content(out / "results.json"), content(out / "run.json")
    assert results["interrupted"]
    assert results["gain"] is results["preset"] is None
    assert results["finding"] in said
    assert (results["default"]["games_per_worker"], run["settings"]["simulations"]) == (32, 4)
    trial = next(csv.DictReader(io.StringIO((out / "trials.csv").read_text())))
    assert (trial["trial"], trial["pool"], trial["lanes"]) == ("0", "thread", "1")
    assert imread(out / "chart.png").shape[1] == 1800
    page = tmp_path / "page.html"
    assert exits("report", out, "--out", page) == 0
    assert results["finding"] in page.read_text()
