"""One contract for all evaluators: what a worker's loop may rely on, whoever evaluates its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from grove.game import load_game
from grove.game.adapter import AdaptedGame
from grove.game.contract import Game
from grove.inference_server import Answer, Client, InferenceServer, ZmqClient, private_endpoint
from grove.inference_server.backends.backend import make_backends
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import NONE, ROOT, Forest, LeafRows, SearchSettings
from grove.workers.selfplay.direct import DirectNetwork
from grove.workers.selfplay.evaluators import (
    KINDS,
    HashEvaluator,
    NetworkEvaluator,
    RolloutEvaluator,
    row_spec,
    submit,
)
from grove.workers.selfplay.group import Group

NETWORK = NetworkSettings(network="resnet:blocks=1,channels=8", device="cpu", dtype="fp32", compile="off")
WAIT_S = 100.0
Make = Callable[[str, Game], Client]


def served(game: Game, stack: ExitStack, channel: str) -> Client:
    backends = make_backends(row_spec(game), NETWORK, 64, 2)
    for backend in backends:
        stack.callback(backend.close)
    server = stack.enter_context(InferenceServer(row_spec(game), backends))
    assert server.wait_ready(60)
    if channel == "inproc":
        return server.connect(window=3)
    endpoint = server.bind(stack.enter_context(private_endpoint()))
    return ZmqClient(endpoint, row_spec(game), window=3, max_rows=64)


def own(kind: str, game: Game) -> Client:
    if kind == "test":
        return HashEvaluator(row_spec(game))
    if kind == "rollout":
        return RolloutEvaluator(game, seed=3)
    return NetworkEvaluator(row_spec(game), DirectNetwork(row_spec(game), NETWORK), batch=kind == "local")


@pytest.fixture
def make() -> Iterator[Make]:
    """Make an evaluator of any kind; it and its server are closed afterwards."""
    with ExitStack() as stack:

        def one(kind: str, game: Game) -> Client:
            kind, _, channel = kind.partition(" ")
            evaluator = served(game, stack, channel) if kind == "server" else own(kind, game)
            stack.callback(evaluator.close)
            return evaluator

        yield one


ALL = ["server inproc", "server zmq", "local", "direct", "rollout", "test"]
SAME_ROW_SAME_ANSWER = [kind for kind in ALL if kind != "rollout"]
every_kind = pytest.mark.parametrize("kind", ALL)


def test_every_kind_is_tested() -> None:
    assert {kind.partition(" ")[0] for kind in ALL} == set(KINDS)


def rooted(game: Game, trees: int, moves: int = 0) -> Forest:
    """Return a forest over `trees` games, each after `moves` moves; tree t plays its t-th legal move."""
    states = np.zeros(trees, game.state_dtype)
    game.initial(np.arange(trees, dtype=np.uint64), states)
    for _ in range(moves):
        offsets, legal = np.zeros(trees + 1, np.int64), np.zeros(trees * game.max_legal, np.int32)
        game.legal(states, offsets, legal)
        game.step(states, legal[offsets[:-1] + np.arange(trees) % np.diff(offsets)])
    forest = Forest(game, trees, SearchSettings(simulations=8))
    roots = np.zeros(trees, ROOT)
    roots["tree"], roots["target"], roots["action"] = np.arange(trees), 8, NONE
    forest.set_roots(roots, states)
    return forest


def asked(game: Game, trees: int, moves: int = 0) -> LeafRows:
    return rooted(game, trees, moves).ask()


def collected(evaluator: Client, count: int) -> dict[int, Answer]:
    answers = {}
    for _ in range(count):
        answer = evaluator.collect(WAIT_S)
        assert answer is not None
        answers[answer.ticket] = answer
    return answers


def answered(evaluator: Client, rows: LeafRows) -> Answer:
    ticket = submit(evaluator, rows)
    return collected(evaluator, 1)[ticket]


@every_kind
@pytest.mark.parametrize("spec", ["connect_four", "hex:size=4"])
def test_an_answer_fits_the_rows(make: Make, kind: str, spec: str) -> None:
    game = load_game(spec)
    evaluator = make(kind, game)
    rows = asked(game, 7)
    ticket = submit(evaluator, rows)
    answer = collected(evaluator, 1)[ticket]
    assert answer.logits.shape == (7, game.num_actions)
    assert answer.values.shape in ((7, 1), (7, game.num_players))
    assert answer.logits.dtype == answer.values.dtype == np.float32
    assert np.isfinite(answer.logits).all()
    assert (np.abs(answer.values) <= 1).all()
    assert answer.version
    assert len(answer.failed) == 0
    rows.forest.tell(rows.ids, answer.logits, answer.values, answer.version)


@every_kind
def test_several_tickets_may_be_outstanding_and_each_comes_back_once(make: Make, kind: str) -> None:
    game = load_game("connect_four")
    evaluator = make(kind, game)
    tickets = {submit(evaluator, asked(game, size)): size for size in (3, 8, 5)}
    assert len(tickets) == 3
    answers = collected(evaluator, 3)
    assert {ticket: len(answer.values) for ticket, answer in answers.items()} == tickets
    assert evaluator.collect(0.01) is None
    evaluator.set_window(1)
    assert len(answered(evaluator, asked(game, 2)).values) == 2


@pytest.mark.parametrize("kind", SAME_ROW_SAME_ANSWER)
def test_rows_are_copied_and_the_same_row_gets_the_sameanswered(make: Make, kind: str) -> None:
    game = load_game("connect_four")
    evaluator = make(kind, game)
    rows = asked(game, 8, moves=3)
    first = submit(evaluator, rows)
    rows.observations[...] = 0  # as the forest's next ask may
    others = asked(game, 8, moves=3)
    second = submit(evaluator, others._replace(ids=others.ids[3:], observations=others.observations[3:]))
    answers = collected(evaluator, 2)
    assert np.abs(answers[first].logits[3:] - answers[second].logits).max() < 1e-5
    assert np.abs(answers[first].values[3:] - answers[second].values).max() < 1e-5
    assert len(np.unique(answers[first].logits, axis=0)) > 1


@every_kind
def test_a_game_is_played_to_its_end(make: Make, kind: str) -> None:
    game = load_game("hex:size=3")
    evaluator = make(kind, game)
    group = Group(game, game.name, SearchSettings(simulations=4), 3, None)
    group.start(1, range(3))
    while group.playing:
        decided = group.forest.search()
        if len(decided):
            group.play(decided)
            continue
        rows = group.forest.ask()
        ids = rows.ids.copy()
        assert group.tell(ids, answered(evaluator, rows)) == 0
    assert sorted(record.index for record in group.finished) == [0, 1, 2]
    assert {sum(record.utilities) for record in group.finished} == {0.0}


class Wide:
    """More actions than a game may have whose replies carry all logits."""

    num_players, num_actions, max_moves, max_legal = 2, 600, 2, 40
    observation_shape, observation_dtype, zero_sum = (1, 4, 5), "uint8", True

    def __init__(self, seed: int) -> None:
        self.moves: list[int] = []

    def legal_actions(self) -> list[int]:
        return [13 + 14 * n for n in range(30 + len(self.moves))]

    def step(self, action: int) -> None:
        self.moves.append(action)

    def to_play(self) -> int:
        return len(self.moves) % 2

    def utility(self) -> list[int] | None:
        return [1, -1] if len(self.moves) == 2 else None

    def observe(self) -> list[list[list[int]]]:
        cells = [len(self.moves), *(m % 256 for m in self.moves), *[0] * 20][:20]
        return [[cells[row * 5 : row * 5 + 5] for row in range(4)]]


@pytest.mark.parametrize("kind", ["server inproc", "server zmq"])
def test_many_actions_come_back_as_those_of_the_legal_moves(make: Make, kind: str) -> None:
    game = AdaptedGame(Wide, "wide:Wide")
    rows = asked(game, 5, moves=1)
    offsets, actions = rows.legal()
    ragged = answered(make(kind, game), rows)
    dense = answered(make("direct", game), rows)
    assert ragged.logits.shape == (offsets[-1],) == (5 * 31,)
    wanted = np.concatenate([dense.logits[i, actions[offsets[i] : offsets[i + 1]]] for i in range(5)])
    assert np.abs(ragged.logits - wanted).max() < 1e-5
    rows.forest.tell(rows.ids, ragged.logits, ragged.values, ragged.version)


def uniform_value(game: Game, state: np.ndarray, seat: int) -> float:
    """Return the exact mean utility of `seat` when both sides play at random from `state` S [1]."""
    done, utility = np.zeros(1, np.bool_), np.zeros((1, game.num_players))
    game.outcome(state, done, utility)
    if done[0]:
        return float(utility[0, seat])
    offsets, legal = np.zeros(2, np.int64), np.zeros(game.max_legal, np.int32)
    game.legal(state, offsets, legal)
    total = 0.0
    for action in legal[: offsets[1]]:
        after = state.copy()
        game.step(after, np.array([action], np.int32))
        total += uniform_value(game, after, seat)
    return total / offsets[1]


@pytest.mark.parametrize("moves", [(), (0,), (1, 3), (0, 4, 8)])
def test_rollouts_estimate_the_movers_mean_result(moves: tuple[int, ...]) -> None:
    game = load_game("hex:size=2" if len(moves) < 3 else "hex:size=3")
    state = np.zeros(1, game.state_dtype)
    game.initial(np.zeros(1, np.uint64), state)
    for move in moves:
        game.step(state, np.array([move], np.int32))
    logits, values = RolloutEvaluator(game, playouts=400, seed=1).compute(np.repeat(state, 5))
    assert not logits.any()
    assert np.allclose(values.sum(axis=1), 0)  # one value per seat, mover first
    # 5 x 400 results of variance at most 1: five standard errors; the seed is fixed.
    exact = uniform_value(game, state, len(moves) % 2)
    assert abs(values[:, 0].mean() - exact) < 5 / np.sqrt(2000)
    again = RolloutEvaluator(game, playouts=400, seed=1).compute(np.repeat(state, 5))[1]
    assert np.array_equal(values, again)
