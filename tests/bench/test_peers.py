"""`grove bench peers`: every peer plays the same network and really makes the simulations it is counted for."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pyspiel
import pytest

from grove.bench.peers import peers
from grove.bench.peers.batchers import ClientJob, GroveServer, HttpServer
from grove.bench.peers.mctx import MctxJob, choose_batch
from grove.bench.peers.network import Export, PeerNetwork, check_same
from grove.bench.peers.open_spiel import Evaluator, OpenSpielJob
from grove.common.errors import PoolError
from grove.game import load_game
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.selfplay.evaluators import row_spec

GAME = load_game("connect_four")
SPEC = row_spec(GAME)
RESNET = "resnet:blocks=1,channels=4"
SIMULATIONS = 8
SIZES = (1, 16)


def needs(*modules: str) -> Any:
    absent = [module for module in modules if find_spec(module) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} of the extra `peers` is not installed")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> PeerNetwork:
    folder = tmp_path_factory.mktemp("network")
    job = Export(row_spec=SPEC, network=NetworkSettings(network=RESNET), folder=str(folder))
    with job.make() as exported:
        return PeerNetwork(**exported.ready())


def positions(moves: int = 20) -> list[tuple[list[int], np.ndarray]]:
    """Return the moves of a random game so far and Grove's row of every position of it."""
    drawn, played, out = np.random.default_rng(3), list[int](), []
    states = np.zeros(1, GAME.state_dtype)
    GAME.initial(np.zeros(1, np.uint64), states)
    for _ in range(moves):
        done, utility = np.zeros(1, np.bool_), np.zeros((1, 2))
        GAME.outcome(states, done, utility)
        if done[0]:
            break
        row = np.zeros((1, *GAME.observation_shape), np.uint8)
        GAME.observe(states, row)
        out.append((list(played), row))
        offsets, legal = np.zeros(2, np.int64), np.zeros(GAME.max_legal, np.int32)
        GAME.legal(states, offsets, legal)
        played.append(int(drawn.choice(legal[: offsets[1]])))
        GAME.step(states, np.array(played[-1:], np.int32))
    return out


# -- the same network --------------------------------------------------------------------------------------------------


def test_another_network_is_refused(network: PeerNetwork) -> None:
    answers = np.load(network.answers)

    def same(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return answers["logits"], answers["values"]

    def other(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return answers["logits"] + 0.01, answers["values"]

    assert check_same(network, same, network.parameters) == 0
    with pytest.raises(PoolError, match=r"differs from Grove's by 0\.01"):
        check_same(network, other, network.parameters)
    with pytest.raises(PoolError, match="parameters"):
        check_same(network, same, network.parameters + 1)


# -- OpenSpiel ---------------------------------------------------------------------------------------------------------


def test_open_spiels_rows_are_groves() -> None:
    game = pyspiel.load_game("connect_four")
    evaluator = Evaluator(game, None)
    for moves, row in positions():
        state = game.new_initial_state()
        for move in moves:
            state.apply_action(move)
        np.testing.assert_array_equal(evaluator.row(state), row)


def test_open_spiel_evaluates_for_both_seats() -> None:
    game = pyspiel.load_game("connect_four")
    answer = np.zeros((1, 7), np.float32), np.full((1, 1), 0.5, np.float32)
    evaluator = Evaluator(game, lambda row: answer)
    state = game.new_initial_state()
    assert evaluator.evaluate(state) == [0.5, -0.5]
    state.apply_action(3)
    assert evaluator.evaluate(state) == [-0.5, 0.5]
    assert evaluator.prior(state) == [(action, pytest.approx(1 / 7)) for action in range(7)]
    assert evaluator.computed == 2  # the prior of a position that was evaluated costs nothing


def test_open_spiel_makes_the_simulations(network: PeerNetwork) -> None:
    search = SearchSettings(simulations=SIMULATIONS)
    job = OpenSpielJob(row_spec=SPEC, network=network, search=search, seed=1, compiled=False)
    with job.make() as player:
        assert player.ready()["difference"] < 1e-4
        check_figures(player.measure("play", 0.5), evaluations_at_most=SIMULATIONS + 1)


def check_figures(done: Any, evaluations_at_most: int) -> None:
    assert done["moves"] > 0
    assert done["simulations"] == done["moves"] * SIMULATIONS
    assert 0 < done["evaluations"] <= done["moves"] * evaluations_at_most
    assert 0 < done["entropy"] / done["moves"] < np.log(7)
    assert done["game_moves"] >= 7 * done["games"]
    assert done["game_moves_squared"] >= 7 * done["game_moves"]


# -- mctx + pgx --------------------------------------------------------------------------------------------------------


@needs("jax", "mctx", "pgx")
def test_pgxs_rows_are_groves() -> None:
    import jax
    import pgx

    env = pgx.make("connect_four")
    step, key = jax.jit(env.step), jax.random.PRNGKey(0)
    for moves, row in positions():
        state = env.init(key)
        for move in moves:
            state = step(state, move)
        np.testing.assert_array_equal(np.asarray(state.observation).transpose(2, 0, 1), row[0])


@needs("jax", "mctx", "pgx")
def test_the_network_in_jax_is_groves_and_mctx_makes_the_simulations(network: PeerNetwork) -> None:
    search = SearchSettings(simulations=SIMULATIONS)
    job = MctxJob(game_spec="connect_four", network=network, search=search, seed=1, core=peers.core_ids()[0])
    with peers.Stage("mctx", job, "connect_four") as stage:  # it binds itself to a core
        said = stage.wait_ready(300.0)
        assert said["difference_fp32"] < 1e-4
        assert said["difference_bf16"] < 0.05
        what, tried = choose_batch([stage], most_games=16)
        assert set(tried) == {"16 fp32", "16 bf16"}
        assert tried[what] == max(tried.values())
        done = stage.measure(what, 1.0)
    check_figures(done, evaluations_at_most=SIMULATIONS + 1)
    assert done["evaluations"] == done["moves"] * (SIMULATIONS + 1)


# -- batching servers --------------------------------------------------------------------------------------------------


def ask_all(network: PeerNetwork, addresses: dict[str, str]) -> None:
    job = ClientJob(row_spec=SPEC, network=network, dtype="fp32", sizes=SIZES, addresses=addresses)
    with job.make() as client:
        assert all(difference < 1e-3 for difference in client.ready().values())
        for name in addresses:
            for size in SIZES:
                assert client.measure(f"{name} {size}", 0.1)["requests"] > 0


def test_groves_server_answers_the_clients(network: PeerNetwork) -> None:
    settings = NetworkSettings(model=network.model, device="cpu", dtype="fp32")
    job = GroveServer(row_spec=SPEC, network=settings, settings=ServerSettings(max_batch=32, lanes=1))
    with job.make() as serving:
        ask_all(network, {"grove": serving.ready()["address"]})


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in ("mosec", "litserve")])
def test_a_server_of_another_project_answers_the_clients(network: PeerNetwork, name: str) -> None:
    told = {"model": network.model, "dtype": "fp32", "max_rows": 32, "max_messages": 2, "lanes": 1, "wait_ms": 1}
    with HttpServer(module=f"grove.bench.peers.{name}", row_spec=SPEC, told=told).make() as serving:
        ask_all(network, {name: serving.ready()["address"]})


def test_a_server_that_does_not_start_says_why() -> None:
    job = HttpServer(module="grove.bench.no_such_server", row_spec=SPEC, told={})
    with pytest.raises(PoolError, match="no_such_server"), job.make():
        pass


# -- the command -------------------------------------------------------------------------------------------------------


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.MODULES, "mctx", ("json", "no_such_module"))
    found = peers.missing(("mctx", "open_spiel"))
    assert found["mctx"].startswith("no_such_module is not installed")
    assert "open_spiel" not in found
