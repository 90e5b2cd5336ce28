"""The soak: what it concludes from looks, logs, records and memory, and a short real one that loses nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace as altered

from grove.bench.soak.check import Check, Served, Span, check_games, replay, served_during, wrong_models
from grove.bench.soak.look import Observation, Watch, read_metrics
from grove.bench.soak.memory import slope
from grove.bench.soak.report import Kept, evaluations_a_game, fault_rows, kept_shares
from grove.bench.soak.run import Written
from grove.bench.soak.soak import KILL, OTHER, REST, Injected, Phase, Soaked, plan_phases
from grove.common.rng import derive
from grove.game import load_game
from grove.records.record import GameRecord, encode
from tests.support.command import Grove
from tests.support.measuring_tools import content
from tests.support.positions import legal_actions, result, start

SPEC = "hex:size=4"
MODEL = "00112233aabbccdd"
FOR_REAL = "server,supervisor,swap,all-at-once"
METRICS = f"""\
# HELP grove_rows_total Rows
grove_rows_total 640.0
grove_batches_total{{reason="full"}} 7.0
grove_batches_total{{reason="delay"}} 3.0
grove_errors_total{{cause="malformed"}} 4.0
grove_errors_total{{cause="gone"}} 0.0
grove_live_clients 2.0
grove_uptime_seconds 1.5
grove_model_info{{version="{MODEL}"}} 1.0
"""


def look(time: float, uptime_s: float, rows: int, batches: int) -> Observation:
    return replace(read_metrics(METRICS, time), uptime_s=uptime_s, rows=rows, batches=batches)


def test_a_look_says_what_the_server_tells() -> None:
    seen = read_metrics(METRICS, 5.0)
    assert (seen.time, seen.uptime_s, seen.rows, seen.batches, seen.live_clients) == (5.0, 1.5, 640, 10, 2)
    assert (seen.errors, seen.model) == ({"malformed": 4, "gone": 0}, MODEL)


def test_looks_sum_up_over_the_lives_of_the_server() -> None:
    watch = Watch(1)
    for seen in (look(0, 10, 1000, 10), look(1, 11, 1600, 20), look(2, 12, 1900, 25)):
        watch.add(seen)
    assert watch.evaluations == 1900
    assert watch.batch_rows(5.0) == 60.0
    assert watch.batch_rows(1.0) == 60.0
    watch.add(look(4, 0.5, 40, 2))  # another life
    assert watch.evaluations == 1940
    assert watch.batch_rows(5.0) == 0.0  # one look says nothing of a rate
    watch.add(look(5, 1.5, 140, 4))
    assert (watch.evaluations, watch.batch_rows(5.0)) == (2040, 50.0)


# -- memory ----------------------------------------------------------------------------------------------------------


def life(seconds: int, mb_per_hour: float, level: float, noise: float = 0.0) -> list[tuple[float, float]]:
    draw = random.Random(int(level))
    return [(t, level + t * mb_per_hour / 3600 + draw.gauss(0, noise)) for t in range(seconds)]


def test_growth_is_found_over_lives_of_different_levels() -> None:
    found = slope([life(140, 360.0, 200, 0.1), life(190, 360.0, 90, 0.1), life(70, 3600.0, 500)])
    assert found is not None
    assert found.lives == 2
    assert found.low < 360.0 < found.high < found.low + 60.0
    flat = slope([life(300, 0.0, 100, 0.5)])
    assert flat is not None
    assert flat.low < 0.0 < flat.high
    filling = slope([[(float(t), 100.0 + min(t, 55)) for t in range(200)]])  # what it takes in its first minute
    assert filling is not None
    assert abs(filling.mb_per_hour) < 1e-6
    assert slope([life(70, 100.0, 100), life(74, 100.0, 100)]) is slope([]) is None, "short lives say nothing"


# -- records ---------------------------------------------------------------------------------------------------------


def random_game(index: int) -> GameRecord:
    rules, draw, moves = load_game(SPEC), random.Random(index), list[int]()
    seed = int(derive(np.uint64(3), index))
    state = start(rules, seed)
    while (utilities := result(rules, state)) is None:
        moves.append(int(draw.choice(legal_actions(rules, state))))
        rules.step(state, np.array(moves[-1:], np.int32))
    return GameRecord(
        game=SPEC,
        index=index,
        seed=seed,
        moves=moves,
        visits=[[[move, 8]] for move in moves],
        values=[[0.0, 0.0] for _ in moves],
        models=[MODEL, None, *[MODEL] * (len(moves) - 2)],
        utilities=list(utilities),
        status="finished",
        seconds=0.1,
    )


@pytest.fixture(scope="module")
def played() -> list[GameRecord]:
    return [random_game(index) for index in range(12)]


def written(folder: Path, records: list[GameRecord], name: str = "worker-000.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / name).open("ab") as file:
        for record in records:
            file.write(encode(record))
    return folder


def served(records: list[GameRecord]) -> list[Served]:
    return [Served(model, 0.0, 0.0) for model in {model for record in records for model in record.models if model}]


def seen(count: int) -> dict[int, Span]:
    return dict.fromkeys(range(count), (0.0, 1.0))


def test_sound_records_pass_and_lost_doubled_and_torn_games_are_found(played: list[GameRecord], tmp_path: Path) -> None:
    check = check_games(written(tmp_path / "sound", played), load_game(SPEC), 12, 3, served(played), seen(12))
    assert check.sound
    assert check.games == 12
    assert sum(check.moves_by_model.values()) == sum(model is not None for game in played for model in game.models)
    games = written(tmp_path / "games", [*played[:5], *played[6:], played[2]])
    with (games / "worker-001.jsonl").open("ab") as file:
        file.write(encode(played[5])[:-20])
    check = check_games(games, load_game(SPEC), 12, 3, served(played), {**seen(12), 20: (0.0, 1.0)})
    assert (check.lost, check.duplicates, check.torn) == ([5, 20], [2], 1)
    assert not check.sound


def test_games_against_the_rules_are_found(played: list[GameRecord]) -> None:
    rules, first = load_game(SPEC), played[0]
    assert replay(played, rules, 3) == []
    twice = altered(first, moves=[first.moves[0], *first.moves[:-1]])
    assert "illegal move 2" in replay([twice, *played[1:]], rules, 3)[0]
    assert "stops before its end" in replay([altered(first, moves=first.moves[:-1])], rules, 3)[0]
    assert "has the result" in replay([altered(first, utilities=[-u for u in first.utilities])], rules, 3)[0]
    assert "seed of its index" in replay([altered(first, index=1)], rules, 3)[0]
    assert len(replay(played, rules, 4)) == len(played)  # another run's games
    assert "is of hex" in replay(played[:1], load_game("connect_four"), 3)[0]


@pytest.mark.parametrize(
    ("moves", "wrong"),
    [
        (["a", None, "a", "b"], ""),
        (["a", "a+b", "b", "c", "a"], ""),  # rolled back to a
        (["b", "a"], ""),
        (["b", "a", "b"], "came back"),
        (["c", "b"], "came back"),
        (["a", "x"], "not served"),
        (["a+x"], "not served"),
        ([None], ""),
    ],
)
def test_models_of_a_game_come_in_the_order_they_were_served(moves: list[str | None], wrong: str) -> None:
    said = wrong_models(moves, ["a", "b", "c", "a"])
    assert wrong in said
    assert bool(said) == bool(wrong)


def test_only_the_models_that_were_served_while_a_game_was_played_may_be_in_it() -> None:
    models = [Served("a", 0, 1), Served("b", 100, 101), Served("a", 200, 201), Served("c", 300)]
    early = ((50, 51), 10, "a"), ((99, 100), 10, "ab"), ((150, 151), 10, "b"), ((150, 151), 60, "ab")
    for span, slack, names in (*early, ((250, 400), 1, "ac"), ((500, 501), 1, "ac")):
        assert served_during(models, span, slack) == list(names)  # c was never seen to be served


def test_written_lines_that_vanish_or_change_are_missed(played: list[GameRecord], tmp_path: Path) -> None:
    games = written(tmp_path / "games", played[:3])
    log = games / "worker-000.jsonl"
    with log.open("ab") as file:
        file.write(encode(played[3])[:30])  # not whole yet
    noted = Written(games)
    noted.read()
    assert noted.seen.keys() == {0, 1, 2}
    with log.open("ab") as file:
        file.write(encode(played[3])[30:])
    noted.read()
    assert noted.seen.keys() == {0, 1, 2, 3}
    assert all(first <= last for first, last in noted.seen.values())
    assert noted.changed() == []
    whole = log.read_bytes()
    for spoiled in (whole[:-50], whole.replace(b'"index":1', b'"index":7')):
        log.write_bytes(spoiled)
        assert noted.changed() == [log.name]
    log.write_bytes(whole + b"more\n")
    assert noted.changed() == []
    log.unlink()
    assert noted.changed() == [log.name]


# -- what is concluded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [12.0, 180.0, 1800.0])
def test_every_phase_of_faults_has_rest_on_both_sides(seconds: float) -> None:
    phases = plan_phases(seconds)
    kinds = [kind for kind, _ in phases]
    assert sum(length for _, length in phases) == pytest.approx(seconds)
    assert kinds[0] == kinds[-1] == REST
    assert all(kinds[place - 1] == kinds[place + 1] == REST for place, kind in enumerate(kinds) if kind != REST)
    assert kinds.count(KILL) == kinds.count(OTHER) == max(1, round(seconds / 180))


def test_what_is_kept_is_measured_against_the_rests_beside() -> None:
    phases = [Phase(REST, 10, 100, 0), Phase(KILL, 20, 120, 7200), Phase(REST, 10, 50, 0), Phase(OTHER, 10, 25, 0)]
    assert kept_shares(phases, KILL, "games") == [pytest.approx(0.8)]
    assert kept_shares(phases, OTHER, "games") == [pytest.approx(0.5)]
    assert kept_shares(phases, KILL, "evaluations") == []
    assert evaluations_a_game(phases, KILL) == 60.0
    assert evaluations_a_game(phases[-1:], KILL) is None
    assert Kept.of([0.9]) == (0.9, None, None, 1)
    assert str(Kept.of([0.8] * 4)) == "80% [80%, 80%] over 4 phases"


def test_one_fault_that_is_not_survived_spoils_the_soak() -> None:
    found = Soaked(injected=[Injected("worker", 1, 0.5), Injected("worker", 2, 1.5)], skipped={"full-disk": "no root"})
    assert found.sound
    rows = {row["name"]: row for row in fault_rows(found)}
    assert (rows["worker"]["recovered"], rows["worker"]["median_s"], rows["worker"]["worst_s"]) == (2, 1.0, 1.5)
    assert rows["full-disk"]["skipped"] == "no root"
    assert not replace(found, injected=[*found.injected, Injected("server", 3, None, "why")]).sound
    assert not replace(found, check=Check(lost=[1])).sound
    assert not replace(found, left_behind=["process 1"]).sound
    assert not replace(found, changed=["worker-000.jsonl"]).sound
    assert not replace(found, ended_early=["it ended with 2"]).sound


# -- for real --------------------------------------------------------------------------------------------------------


def test_a_short_soak_loses_nothing(grove: Grove) -> None:
    out = grove.folder / "soak"
    said = grove.play(
        *("bench", "soak", "--minutes", 0.15, "--every", 1, "--faults", FOR_REAL, "--out", out),
        *("--game", SPEC, "--simulations", 20, "--workers", 2, "--games-per-worker", 8, "--seed", 1),
        *("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off"),
    )
    assert "games lost 0, duplicates 0, wrong versions 0" in said
    found = content(out / "soak.json")
    assert found["sound"]
    assert found["check"]["games"] == found["games"] > 0
    assert all(row["injected"] == row["recovered"] for row in found["faults"])
