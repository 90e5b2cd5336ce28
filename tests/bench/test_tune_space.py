"""`grove tune`: what it may try, and what it tries first and next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from grove.bench.limit.limit import LimitAsked
from grove.bench.tune import space as tune_space
from grove.bench.tune.search import distributions, make_study
from grove.bench.tune.seeds import make_seeds, smallest_good_batch
from grove.bench.tune.space import KNOBS, Space, make_space
from grove.common.errors import SettingError
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.pool.settings import PoolSettings
from tests.support.tune_tools import BASE, network_alone


def asked(**search: Any) -> LimitAsked:
    return LimitAsked(
        game_spec="connect_four",
        seconds=60.0,
        out=Path("out"),
        seed=0,
        search=SearchSettings(**search),
        pool=PoolSettings(),
        network=NetworkSettings(network="mlp:layers=1,width=8", device="cpu"),
        server=ServerSettings(lanes=2),
    )


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of two cores and 8 GiB, whatever this one has, for what is derived in this process."""
    monkeypatch.setattr(tune_space, "usable_cores", lambda: 2)
    monkeypatch.setattr(tune_space, "free_memory_bytes", lambda: 8 << 30)


def space(load: LimitAsked | None = None, knobs: tuple[str, ...] = KNOBS, **found: Any) -> Space:
    load = load or asked()
    default = BASE._replace(dtype=found.get("dtype", "fp32"), cache=load.search.cache)
    return make_space(load, default, knobs, network_alone(**found))


# -- what may be tried -------------------------------------------------------------------------------------------------


def test_the_default_is_a_choice_of_its_own_space() -> None:
    room = space()
    assert room.choice(room.params()) == BASE
    assert all(value in room.ladders["max_batch"] for value in (64, 512, 1024))
    assert room.ladders["pool"] == ("thread", "process")


def test_games_in_flight_are_shared_by_the_workers() -> None:
    room = space()
    found = room.choice(room.params(pool="process", workers=4, games_per_worker=1024, cache=8))
    assert (found.pool, found.workers, found.games_per_worker) == ("process", 4, 256)
    assert found.cache == 8 * 256 * 101


def test_knobs_that_are_not_searched_stay_as_the_user_set_them() -> None:
    load = asked()
    load = replace(load, pool=PoolSettings(games_per_worker=96, groups=3), search=SearchSettings(cache=1000))
    default = BASE._replace(games_per_worker=96, groups=3, cache=1000)
    room = make_space(load, default, ("workers",), network_alone())
    assert set(room.ladders) == {"workers"}
    assert room.choice(room.params(workers=2)) == default._replace(workers=2)


def test_the_search_itself_is_no_knob() -> None:
    room = space(asked(simulations=7, leaves=2, virtual_loss=0.5))
    assert "cache" not in room.ladders, "with several leaves a tree it changes the games"
    for params in ({}, {"pool": "process", "max_batch": 64}):
        search = room.plan(room.choice(room.params(**params))).search
        assert search == SearchSettings(simulations=7, leaves=2, virtual_loss=0.5)


@pytest.mark.parametrize(
    ("wanted", "found", "tried"),
    [("auto", "bf16", ("bf16", "fp32")), ("auto", "fp32", None), ("fp32", "fp32", None), ("bf16", "bf16", None)],
)
def test_number_formats_are_those_that_auto_finds_accurate(wanted: Any, found: str, tried: Any) -> None:
    load = asked()
    load = replace(load, network=replace(load.network, dtype=wanted))
    assert space(load, dtype=found).ladders.get("dtype") == tried


def test_what_cannot_be_played_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    room = space()
    with pytest.raises(SettingError, match=r"workers is 8, but with 2 lanes it is 10 threads on 2 cores"):
        room.choice(room.params(workers=8))
    with pytest.raises(SettingError, match=r"may ask 4096 rows"):
        room.choice(room.params(games_per_worker=8192, groups=1))
    monkeypatch.setattr(tune_space, "free_memory_bytes", lambda: 1 << 29)
    assert room.choice(room.params(games_per_worker=64)).games_per_worker == 64
    with pytest.raises(SettingError, match=r"trees and caches would take .* GiB of the 0\.5 GiB that are free"):
        room.choice(room.params(games_per_worker=2048, cache=32))


# -- what is tried, and in which order ---------------------------------------------------------------------------------


def test_seeds_follow_from_the_network_alone() -> None:
    assert smallest_good_batch(network_alone()) == 128
    room = space()
    seeds = make_seeds(room, network_alone())
    choices = [room.choice(seed.params) for seed in seeds]
    assert choices[0] == BASE
    assert [(one.pool, one.max_batch, one.workers * one.games_per_worker, bool(one.cache)) for one in choices] == [
        *(("thread", 512, 2048, False), ("thread", 512, 2048, True)),
        *(("thread", 256, 1024, False), ("thread", 256, 1024, True), ("thread", 128, 512, True)),
        *(("process", 512, 2048, True), ("thread", 128, 512, False)),
    ]
    assert len(set(choices)) == len(seeds)


def proposals(seed: int, trials: int) -> list[dict[str, Any]]:
    """What is proposed when the best is a small batch in one group."""
    room, study = space(), make_study(seed, 3)
    found = []
    for _ in range(trials):
        proposal = study.ask(distributions(room))
        found.append(proposal.params)
        study.tell(proposal, -abs(proposal.params["max_batch"] - 1) - proposal.params["groups"])
    return found


def test_the_same_seed_proposes_the_same_and_learns() -> None:
    first = proposals(3, 40)
    assert first == proposals(3, 40) != proposals(4, 40)
    assert sum(one["groups"] == 0 for one in first[20:]) > sum(one["groups"] == 0 for one in first[:20])


def test_a_trial_below_the_others_is_cut() -> None:
    study = make_study(0, 3)
    ranges = distributions(space())
    for gain, cut in ((1.0, False), (1.2, False), (0.5, True), (1.3, False)):
        proposal = study.ask(ranges)
        proposal.report(gain, 0)
        assert proposal.should_prune() == cut
        if cut:
            study.tell(proposal, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(proposal, gain)
