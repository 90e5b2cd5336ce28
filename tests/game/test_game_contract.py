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


class Padded(Pile):
    state_dtype = np.dtype([("pile", np.uint8), ("taken", np.uint16), ("seat", np.uint8)], align=True)


class NotStructured(Pile):
    state_dtype = np.dtype(np.uint64)


class NumberIsText(Pile):
    max_moves: Any = "nine"


class ThreeSeatsZeroSum(Pile):
    num_players = 3


class SeedIgnoredField(Pile):
    def initial(self, seeds: Any, out: Any) -> None:
        out["pile"], out["seat"] = 5 + seeds % 4, 0


class StartByPlaceInBatch(Pile):
    def initial(self, seeds: Any, out: Any) -> None:
        super().initial(seeds, out)
        out["pile"] = 5 + np.arange(len(out)) % 4


class Descending(Pile):
    def moves(self, state: Any) -> list[int]:
        return super().moves(state)[::-1]


class BeyondActions(Pile):
    def moves(self, state: Any) -> list[int]:
        return [*super().moves(state)[:2], 3]


class TooManyLegal(Pile):
    max_legal = 1


class NothingLegal(Pile):
    def outcome(self, states: Any, done: Any, utility: Any) -> None:
        super().outcome(states, done, utility)
        done[:] = False


class OnlyFirstStepped(Pile):
    def step(self, states: Any, actions: Any) -> None:
        super().step(states[:1], actions[:1])


class StepsNeighbours(Pile):
    def step(self, states: Any, actions: Any) -> None:
        super().step(states, actions)
        whole = states if states.base is None else states.base
        whole["seat"] ^= 1


class ChangesActions(Pile):
    def step(self, states: Any, actions: Any) -> None:
        super().step(states, actions)
        actions[:] = 0


class HiddenMemory(Pile):
    def __init__(self) -> None:
        self.steps = 0

    def step(self, states: Any, actions: Any) -> None:
        super().step(states, actions)
        self.steps += 1

    def to_play(self, states: Any, out: Any) -> None:
        out[:] = self.steps % 2


class Chance(Pile):
    def __init__(self) -> None:
        self.dice = np.random.default_rng(0)

    def step(self, states: Any, actions: Any) -> None:
        super().step(states, actions)
        states["seat"] = self.dice.integers(0, 2, len(states))


class LookingChanges(Pile):
    def observe(self, states: Any, out: Any) -> None:
        super().observe(states, out)
        states["taken"] = 0


class SeatBeyondPlayers(Pile):
    def to_play(self, states: Any, out: Any) -> None:
        out[:] = states["seat"] + 1


class HugeUtility(Pile):
    def outcome(self, states: Any, done: Any, utility: Any) -> None:
        super().outcome(states, done, utility)
        utility *= 2


class NotZeroSum(Pile):
    def outcome(self, states: Any, done: Any, utility: Any) -> None:
        super().outcome(states, done, utility)
        utility[:] = np.abs(utility)


class NoUtilityWritten(Pile):
    def outcome(self, states: Any, done: Any, utility: Any) -> None:
        for i, state in enumerate(states):
            done[i] = not self.moves(state)


class TooLong(Pile):
    max_moves = 2


class RowWithoutLastMove(Pile):
    def observe(self, states: Any, out: Any) -> None:
        super().observe(states, out)
        out[:, 1] = 0


class RowPartlyWritten(Pile):
    def observe(self, states: Any, out: Any) -> None:
        out[:, 0] = states["pile"]


class RandomRow(Pile):
    def observe(self, states: Any, out: Any) -> None:
        out[:] = np.random.default_rng().integers(0, 200, out.shape)


class RowNotFinite(Pile):
    observation_dtype = np.dtype(np.float32)

    def observe(self, states: Any, out: Any) -> None:
        out[:] = np.nan


class WrongText(Pile):
    def parse(self, text: str) -> int:
        return int(text) // 2


class PictureOfBatchesOnly(Pile):
    def render(self, state: Any) -> str:
        return f"{state['pile']} left"


class NoEmptyBatch(Pile):
    def to_play(self, states: Any, out: Any) -> None:
        out[0] = states[0]["seat"]
        out[:] = states["seat"]


class Raises(Pile):
    def step(self, states: Any, actions: Any) -> None:
        raise KeyError("pile")


class BatchUnlikeSingle(Pile):
    def observe(self, states: Any, out: Any) -> None:
        super().observe(states, out)
        out[:, 1] = len(states) == 1


class WrongSymmetry(Pile):
    symmetries = (Symmetry(np.array([1, 0, 2], np.int32), np.array([0, 1])),)


class NoPermutation(Pile):
    symmetries = (Symmetry(np.array([0, 0, 2], np.int32), np.array([0, 1])),)


BROKEN = {
    Padded: "packed without padding",
    NotStructured: "structured dtype",
    NumberIsText: "max_moves is an integer",
    ThreeSeatsZeroSum: "zero_sum is for two players",
    SeedIgnoredField: "initial writes every field",
    StartByPlaceInBatch: "from the seed alone.*game 1, move 0",
    Descending: "legal actions ascend.*game 0, move 0",
    BeyondActions: "legal actions ascend.*game 0, move 0",
    TooManyLegal: "max_legal = 1",
    NothingLegal: "has a legal action.*game [0-9]+, move [0-9]+",
    OnlyFirstStepped: "step of a batch equals stepping one at a time",
    StepsNeighbours: "only the states it is given",
    ChangesActions: "leaves the actions as they are",
    HiddenMemory: "the same next state|state's bytes alone|one at a time",
    Chance: "chance nodes are not supported",
    LookingChanges: "only step changes states",
    SeatBeyondPlayers: r"to_play is a seat in 0\.\.1.*game [0-9]+, move",
    HugeUtility: r"utilities lie in \[-1, 1\]",
    NotZeroSum: "sum to zero",
    NoUtilityWritten: "every value is written",
    TooLong: "ends within max_moves = 2",
    RowWithoutLastMove: "equal observations mean equal legal actions",
    RowPartlyWritten: "every value is written",
    RandomRow: "bytes alone.*observe",
    RowNotFinite: "finite",
    WrongText: "parse",
    PictureOfBatchesOnly: "render",
    NoEmptyBatch: "batch of 0 games.*IndexError",
    Raises: "step accepts.*KeyError",
    BatchUnlikeSingle: "one at a time.*observe",
    WrongSymmetry: "symmetry leaves the rules unchanged",
    NoPermutation: "permutation",
}


def test_sound_game_passes() -> None:
    check(Pile())
    check(Pile(), games=1, seed=9)


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_broken_game_is_caught(cls: type[Pile]) -> None:
    with pytest.raises(ContractError, match=BROKEN[cls]) as caught:
        check(cls())
    assert cls.name in str(caught.value)
    assert "\n" not in str(caught.value)


class GlobalDice(NaiveConnectFour):
    """A plain Python game whose moves roll dice that are not drawn from the seed."""

    dice = np.random.default_rng(0)

    def step(self, action: int) -> None:
        super().step(action)
        self.extra = int(self.dice.integers(0, 100))

    def observe(self) -> Any:
        return np.full((2, 6, 7), getattr(self, "extra", 0))


class SharedBoard(NaiveConnectFour):
    """A plain Python game that keeps its board in the class, so that games mix."""

    board: list[int] = []  # noqa: RUF012 - the fault under test

    def step(self, action: int) -> None:
        super().step(action)
        self.board.append(action)

    def to_play(self) -> int:
        return len(self.board) % 2


class FloatRow(NaiveConnectFour):
    def observe(self) -> Any:
        return np.full((2, 6, 7), 0.5)


class OtherShape(NaiveConnectFour):
    def observe(self) -> Any:
        return np.zeros(7)


class OneUtility(NaiveConnectFour):
    def utility(self) -> Any:
        result = super().utility()
        return None if result is None else result[:1]


class Endless(NaiveConnectFour):
    max_moves = 10


ADAPTED = {
    GlobalDice: "chance nodes|bytes alone",
    SharedBoard: "chance nodes|bytes alone|one at a time",
    FloatRow: "gave values that are no uint8",
    OtherShape: r"shape \(2, 6, 7\), gave \(7,\)",
    OneUtility: "2 seats",
    Endless: "max_moves = 10",
}


def test_sound_python_game_passes() -> None:
    check(AdaptedGame(NaiveConnectFour, "naive"), games=5)


@pytest.mark.parametrize("cls", ADAPTED, ids=lambda cls: cls.__name__)
def test_broken_python_game_is_caught(cls: type[NaiveConnectFour]) -> None:
    with pytest.raises(ContractError, match=ADAPTED[cls]):
        check(AdaptedGame(cls, "broken"), games=5)


def test_incomplete_python_game_is_named() -> None:
    class Half:
        num_players = 2

    with pytest.raises(ContractError, match="add num_actions, max_moves"):
        AdaptedGame(Half, "half")  # type: ignore[arg-type]
