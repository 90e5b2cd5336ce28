"""Whole runs through the command line, in subprocesses: real servers, workers, sockets and folders."""

from __future__ import annotations

import json
import math
import tomllib
from importlib.metadata import version

import pytest

from grove.cli import COMMANDS, main
from grove.game import load_game
from tests.support.command import ROOT, Grove

SOURCE = (ROOT / "tests" / "support" / "sticks.py").read_text()
MLP = ("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
SUMMARY = {
    *("games", "seconds", "games_per_minute", "evaluations_per_second", "simulations_per_second"),
    *("distinct_evaluations", "mean_batch_rows", "fill", "dispatch_reasons", "cache_hit_rate", "model_version"),
    *("worker_peak_rss_mb", "server_peak_rss_mb", "device", "dtype", "pool"),
}


@pytest.mark.parametrize(
    ("spec", "network", "pool"),
    [
        ("connect_four", MLP, "process"),
        ("hex:size=5", ("--device", "cpu", "--dtype", "fp32"), "auto"),
    ],
)
def test_a_whole_run_and_the_same_command_again(grove: Grove, spec: str, network: tuple[str, ...], pool: str) -> None:
    out = grove.folder / "run"
    command = ("selfplay", "--game", spec, "--games", 21, "--workers", 2, "--games-per-worker", 6, "--simulations", 12)
    command = (*command, *network, "--pool", pool, "--out", out)
    said = grove.play(*command)
    assert str(out) in said
    assert "device: cpu" in said
    assert f"pool: {'' if pool == 'auto' else pool}" in said
    chosen = "resnet:blocks=3,channels=32" if pool == "auto" else MLP[1]
    assert f"network: {chosen} ({'auto: boards of ' if pool == 'auto' else 'as asked for'}" in said
    assert tomllib.loads((out / "config.toml").read_text())["network"] == chosen
    records = grove.exactly(out, range(21), spec)
    summary = grove.summary(out)
    assert summary.keys() >= SUMMARY
    assert summary["games"] == 21
    assert summary["pool"] in (("thread", "process") if pool == "auto" else (pool,))
    assert (summary["device"].split()[0], summary["dtype"]) == ("cpu", "fp32")
    assert 0 < summary["fill"] <= 1
    assert summary["mean_batch_rows"] >= 1
    assert sum(summary["dispatch_reasons"].values()) > 0
    assert summary["cache_hit_rate"] is None
    searched = sum(visits is not None for record in records for visits in record.visits)
    assert summary["simulations"] == 12 * searched
    assert summary["evaluations"] <= 13 * searched
    assert {model for record in records for model in record.models} - {None} == {summary["model_version"]}
    assert all(math.isfinite(value) for value in summary.values() if isinstance(value, float))
    logged = (out / "games").glob("*.jsonl")
    assert all(line.startswith(b'{"schema":1,') for path in logged for line in path.read_bytes().splitlines())

    before = {path: path.read_bytes() for path in sorted((out / "games").iterdir())}
    again = grove.play(*command)
    assert "All 21 games are there already" in again
    assert {path: path.read_bytes() for path in sorted((out / "games").iterdir())} == before
    assert len(json.loads((out / "run.json").read_text())["resumes"]) == 1


@pytest.mark.parametrize(
    ("spec", "units"),
    [("blob:players=4,cards=2", {"rounds": 1}), ("blob:players=3,match=2", {"matches": 1, "rounds": 6})],
)
def test_rounds_and_matches_are_counted_as_such(grove: Grove, spec: str, units: dict[str, int]) -> None:
    out, unit = grove.folder / "run", next(iter(units))
    command = ("selfplay", "--game", spec, "--games", 5, "--simulations", 4, "--evaluator", "test", "--out", out)
    said = grove.play(*command)
    grove.exactly(out, range(5), spec)
    assert f"5/5 {unit}" in said
    assert "games" not in said.replace(" games in ", "")  # but for the workers' games at once
    summary = grove.summary(out)
    for row in (summary, *(json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())):
        assert row["unit"] == unit
        for name, count in units.items():
            assert row[f"{name}_per_minute"] == pytest.approx(count * row["games_per_minute"])
    assert {name for name in ("games", "rounds", "matches") if f"{name}/min" in said} == units.keys()
    assert f"All 5 {unit} are there already" in grove.play(*command)


def test_a_preset_is_played_and_recorded_resolved(grove: Grove) -> None:
    out = grove.folder / "run"
    command = ("selfplay", "--preset", "blob-light", "--simulations", 4, "--games", 4, *MLP, "--pool", "thread")
    assert "2 worlds x 4 simulations" in grove.play(*command, "--out", out)
    grove.exactly(out, range(4), "blob:players=4,cards=5")
    resolved = tomllib.loads((out / "config.toml").read_text())
    assert (resolved["preset"], resolved["worlds"], resolved["c_puct"]) == ("blob-light", 2, 1.5)  # the preset
    assert (resolved["simulations"], resolved["network"]) == (4, MLP[1])  # flags
    # What was resolved needs no preset to be played on.
    assert "All 4 rounds are there" in grove.play("selfplay", "--config", out / "config.toml", "--out", out)
    scores = grove.read(out)[0].extra["scores"]
    assert f"scores: player 0 {scores[0]}, player 1 {scores[1]}, " in grove.play("show", out, "--game", 0)


def test_more_games_than_before_plays_only_the_rest(grove: Grove) -> None:
    out = grove.folder / "run"
    command = ("selfplay", "--evaluator", "test", "--simulations", 8, "--seed", 3, "--out", out)
    grove.play(*command, "--games", 5)
    first = [(record.index, record.moves) for record in grove.exactly(out, range(5), "connect_four")]
    grove.play(*command, "--games", 12, "--workers", 3)
    both = [(record.index, record.moves) for record in grove.exactly(out, range(12), "connect_four")]
    assert both[:5] == first
    assert grove.summary(out)["games"] == 12
    assert grove.summary(out)["games_this_start"] == 7
    assert "are there already" in grove.play(*command, "--games", 12)


def test_thirty_two_worker_processes(grove: Grove) -> None:
    out = grove.folder / "run"
    grove.play(
        *("selfplay", "--game", "hex:size=3", "--games", 96, "--workers", 32, "--games-per-worker", 2),
        *("--simulations", 8, *MLP, "--pool", "process", "--out", out),
    )
    grove.exactly(out, range(96), "hex:size=3")
    summary = grove.summary(out)
    assert summary["workers"] == len(summary["games_by_worker"]) == 32
    assert sum(summary["games_by_worker"]) == 96


@pytest.mark.parametrize(("evaluator", "spec"), [("server", "sticks:Sticks"), ("rollout", "own/game.py:Sticks")])
def test_a_users_plain_python_game_is_played_by_processes(grove: Grove, evaluator: str, spec: str) -> None:
    file = grove.folder / spec.partition(":")[0].removesuffix(".py")
    file.parent.mkdir(exist_ok=True)
    file.with_suffix(".py").write_text(SOURCE)
    out = grove.folder / "run"
    said = grove.play(
        *("selfplay", "--game", spec, "--games", 9, "--workers", 2, "--games-per-worker", 3),
        *("--simulations", 8, *MLP, "--evaluator", evaluator, "--out", out),
    )
    assert "pool: process" in said
    records = grove.exactly(out, range(9), spec)
    assert grove.summary(out)["pool"] == "process"
    assert len({len(record.moves) for record in records}) > 1
    refused = f"game 4 is of {spec}, and what a record names is not imported unasked; give --rules {spec} "
    assert grove.refused("show", out, "--game", 4).startswith(refused)
    assert f"game 4 of {spec}" in grove.play("show", out, "--game", 4, "--rules", spec)


@pytest.mark.parametrize("evaluator", ["rollout", "direct"])
def test_evaluators_without_a_server(grove: Grove, evaluator: str) -> None:
    out = grove.folder / "run"
    grove.play(
        *("selfplay", "--game", "hex:size=4", "--games", 7, "--workers", 2, "--games-per-worker", 4),
        *("--simulations", 8, *MLP, "--evaluator", evaluator, "--out", out),
    )
    grove.exactly(out, range(7), "hex:size=4")
    summary = grove.summary(out)
    assert summary.keys() >= SUMMARY
    assert summary["evaluator"] == evaluator
    assert summary["evaluations"] > 0


def test_options_of_the_search_reach_it(grove: Grove) -> None:
    out = grove.folder / "run"
    grove.play(
        *("selfplay", "--game", "hex:size=3", "--games", 6, "--simulations", 40, "--cache", 5000, "--reuse"),
        *("--leaves", 2, "--max-moves", 4, "--evaluator", "test", "--groups", 3, "--out", out),
    )
    records = grove.read(out)
    assert [record.index for record in records] == list(range(6))
    assert {record.status for record in records} == {"timeout"}
    assert {len(record.moves) for record in records} == {4}
    assert 0 < grove.summary(out)["cache_hit_rate"] < 1


def test_without_out_a_folder_under_runs_is_made_whose_games_can_be_replayed(grove: Grove) -> None:
    grove.play("selfplay", "--game", "hex:size=2", "--games", 2, "--simulations", 2, "--evaluator", "test")
    (folder,) = (grove.folder / "runs").iterdir()
    assert "hex" in folder.name
    record = grove.exactly(folder, range(2), "hex:size=2")[1]
    text = grove.play("show", folder, "--game", 1)
    assert f"game 1 of hex:size=2, {len(record.moves)} moves" in text
    assert f"player 0 plays {load_game('hex:size=2').render_action(record.moves[0])}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert said.startswith(f"usage: grove {name}")
    assert max(map(len, said.splitlines())) <= 80
    assert all(f"grove {name} {example}" in said for example in COMMANDS[name].examples)
    assert {flag for flag in COMMANDS[name].usual.split() if f"--{flag.replace('_', '-')}" not in said} == set()


def test_help_lists_the_commands_few_flags_come_first_and_the_version_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["--help"], ["selfplay", "--help"], ["--version"]):
        with pytest.raises(SystemExit):
            main(words)
    said = capsys.readouterr().out
    assert all(f"  {name}" in said for name in COMMANDS)
    assert said.index("--simulations N") < said.index("advanced: search") < said.index("--c-puct X") < len(said)
    assert said.splitlines()[-1] == f"grove {version('grove-selfplay')}"
