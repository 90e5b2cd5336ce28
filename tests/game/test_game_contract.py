"""The contract check: a sound game passes, and every way to break a promise is caught and named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from grove.common.errors import ContractError
from grove.game import AdaptedGame, PerfectInformation, Symmetry, check
from tests.support.naive_games import NaiveConnectFour

STATE = np.dtype([("pile", np.uint8), ("taken", np.uint8), ("seat", np.uint8)])


class Pile(PerfectInformation):
    """Take one to three from a pile of 5 to 8; who takes the last wins; taking what was just taken is forbidden."""

    name = "tests.game.test_game_contract:Pile"
    num_players = 2
    num_actions = 3
    max_legal = 3
    max_moves = 9
    state_dtype = STATE
    observation_shape = (2,)
    observation_dtype = np.dtype(np.uint8)
    zero_sum = True
    compiled = False

    def initial(self, seeds: Any, out: Any) -> None:
        out["pile"], out["taken"], out["seat"] = 5 + seeds % 4, 0, 0

    def step(self, states: Any, actions: Any) -> None:
        states["pile"] -= (actions + 1).astype(np.uint8)
        states["taken"] = actions + 1
        states["seat"] ^= 1

    def moves(self, state: Any) -> list[int]:
        return [a for a in range(3) if a + 1 <= state["pile"] and a + 1 != state["taken"]]

    def legal(self, states: Any, offsets: Any, actions: Any) -> None:
        offsets[0] = 0
        for i, state in enumerate(states):
            moves = self.moves(state)
            offsets[i + 1] = offsets[i] + len(moves)
            actions[offsets[i] : offsets[i + 1]] = moves

    def to_play(self, states: Any, out: Any) -> None:
        out[:] = states["seat"]

    def outcome(self, states: Any, done: Any, utility: Any) -> None:
        for i, state in enumerate(states):
            done[i] = not self.moves(state)
            utility[i] = (-1, 1) if state["seat"] == 0 else (1, -1)

    def observe(self, states: Any, out: Any) -> None:
        out[:, 0], out[:, 1] = states["pile"], states["taken"]

    def parse(self, text: str) -> int:
        return int(text)

    def render(self, state: Any) -> str:
        return f"{state.reshape(-1)[0]['pile']} left"


def then(method: str, change: Any) -> Any:
    """Return Pile's `method` with a change of its arrays after it."""

    def both(self: Pile, *arrays: Any) -> None:
        getattr(Pile, method)(self, *arrays)
        change(*arrays)

    return both


def put(out: Any, values: Any) -> None:
    np.copyto(out, values, casting="unsafe")


def flip_whole(states: Any, _: Any) -> None:
    whole = states if states.base is None else states.base
    whole["seat"] ^= 1


DICE, STEPS = np.random.default_rng(0), [0]
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "padded": (
        "packed without padding",
        {"state_dtype": np.dtype([("pile", np.uint8), ("taken", np.uint16), ("seat", np.uint8)], align=True)},
    ),
    "no structure": ("structured dtype", {"state_dtype": np.dtype(np.uint64)}),
    "number is text": ("max_moves is an integer", {"max_moves": "nine"}),
    "three seats": ("zero_sum is for two players", {"num_players": 3}),
    "field left": ("initial writes every field", {"initial": lambda g, seeds, out: put(out["pile"], 5 + seeds % 4)}),
    "start by place": (
        "from the seed alone.*game 1, move 0",
        {"initial": then("initial", lambda _, out: put(out["pile"], 5 + np.arange(len(out)) % 4))},
    ),
    "descending": ("legal actions ascend.*game 0, move 0", {"moves": lambda g, s: Pile.moves(g, s)[::-1]}),
    "beyond actions": ("legal actions ascend.*game 0, move 0", {"moves": lambda g, s: [*Pile.moves(g, s)[:2], 3]}),
    "too many legal": ("max_legal = 1", {"max_legal": 1}),
    "nothing legal": (
        "has a legal action.*game [0-9]+, move [0-9]+",
        {"outcome": then("outcome", lambda _, done, utility: done.fill(False))},
    ),
    "only first stepped": (
        "step of a batch equals stepping one at a time",
        {"step": lambda g, states, actions: Pile.step(g, states[:1], actions[:1])},
    ),
    "steps neighbours": ("only the states it is given", {"step": then("step", flip_whole)}),
    "changes actions": ("leaves the actions as they are", {"step": then("step", lambda _, actions: actions.fill(0))}),
    "hidden memory": (
        "the same next state|state's bytes alone|one at a time",
        {"step": then("step", lambda *_: STEPS.append(0)), "to_play": lambda g, _, out: out.fill(len(STEPS) % 2)},
    ),
    "chance": (
        "chance nodes are not supported",
        {"step": then("step", lambda states, _: put(states["seat"], DICE.integers(0, 2, len(states))))},
    ),
    "looking changes": (
        "only step changes states",
        {"observe": then("observe", lambda states, _: states["taken"].fill(0))},
    ),
    "seat beyond": (
        r"to_play is a seat in 0\.\.1.*game [0-9]+, move",
        {"to_play": lambda g, states, out: put(out, states["seat"] + 1)},
    ),
    "huge utility": (r"utilities lie in \[-1, 1\]", {"outcome": then("outcome", lambda s, d, u: put(u, 2 * u))}),
    "not zero-sum": ("sum to zero", {"outcome": then("outcome", lambda s, d, u: put(u, np.abs(u)))}),
    "no utility written": (
        "every value is written",
        {"outcome": lambda g, states, done, _: put(done, [not g.moves(s) for s in states])},
    ),
    "too long": ("ends within max_moves = 2", {"max_moves": 2}),
    "row without last move": (
        "equal observations mean equal legal actions",
        {"observe": then("observe", lambda _, out: out[:, 1].fill(0))},
    ),
    "row partly written": (
        "every value is written",
        {"observe": lambda g, states, out: put(out[:, 0], states["pile"])},
    ),
    "random row": (
        "bytes alone.*observe",
        {"observe": lambda g, _, out: put(out, np.random.default_rng().integers(0, 200, out.shape))},
    ),
    "row not finite": (
        "finite",
        {"observation_dtype": np.dtype(np.float32), "observe": lambda g, _, out: out.fill(np.nan)},
    ),
    "wrong text": ("parse", {"parse": lambda g, text: int(text) // 2}),
    "picture of batches only": ("render", {"render": lambda g, state: f"{state['pile']} left"}),
    "no empty batch": (
        "batch of 0 games.*IndexError",
        {"to_play": lambda g, states, out: put(out, states["seat"] + 0 * states["seat"][0])},
    ),
    "raises": ("step accepts.*KeyError", {"step": lambda g, *_: {}["pile"]}),
    "batch unlike single": (
        "one at a time.*observe",
        {"observe": then("observe", lambda states, out: out[:, 1].fill(len(states) == 1))},
    ),
    "wrong symmetry": (
        "symmetry leaves the rules unchanged",
        {"symmetries": (Symmetry(np.array([1, 0, 2], np.int32), np.array([0, 1])),)},
    ),
    "no permutation": ("permutation", {"symmetries": (Symmetry(np.array([0, 0, 2], np.int32), np.array([0, 1])),)}),
}


def test_sound_games_pass() -> None:
    check(Pile())
    check(Pile(), games=1, seed=9)
    check(AdaptedGame(NaiveConnectFour, "naive"), games=5)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_game_is_caught(fault: str) -> None:
    promise, members = FAULTS[fault]
    with pytest.raises(ContractError, match=promise) as caught:
        check(type("Broken", (Pile,), members)())
    assert Pile.name in str(caught.value)
    assert "\n" not in str(caught.value)


BOARD: list[int] = []


def step_and(change: Any) -> Any:
    """Return NaiveConnectFour's step with a change after it."""

    def step(self: NaiveConnectFour, action: int) -> None:
        NaiveConnectFour.step(self, action)
        change(self, action)

    return step


PYTHON_FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dice not from the seed": (
        "chance nodes|bytes alone",
        {
            "step": step_and(lambda g, action: setattr(g, "extra", int(DICE.integers(0, 100)))),
            "observe": lambda g: np.full((2, 6, 7), getattr(g, "extra", 0)),
        },
    ),
    "board in the class": (
        "chance nodes|bytes alone|one at a time",
        {"step": step_and(lambda g, action: BOARD.append(action)), "to_play": lambda g: len(BOARD) % 2},
    ),
    "row of floats": ("gave values that are no uint8", {"observe": lambda g: np.full((2, 6, 7), 0.5)}),
    "row of another shape": (r"shape \(2, 6, 7\), gave \(7,\)", {"observe": lambda g: np.zeros(7)}),
    "one utility": ("2 seats", {"utility": lambda g: NaiveConnectFour.utility(g) and [1.0]}),
    "endless": ("max_moves = 10", {"max_moves": 10}),
}


@pytest.mark.parametrize("fault", PYTHON_FAULTS)
def test_a_broken_python_game_is_caught(fault: str) -> None:
    promise, members = PYTHON_FAULTS[fault]
    with pytest.raises(ContractError, match=promise):
        check(AdaptedGame(type("Broken", (NaiveConnectFour,), members), "broken"), games=5)


def test_incomplete_python_game_is_named() -> None:
    class Half:
        num_players = 2

    with pytest.raises(ContractError, match="add num_actions, max_moves"):
        AdaptedGame(Half, "half")  # type: ignore[arg-type]
