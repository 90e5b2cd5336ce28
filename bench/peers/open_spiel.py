"""The peer OpenSpiel: its MCTS in Python, one process a core, one position a call, as its evaluators work.

The network is Grove's own of the mode `direct` (eager, compiled, or compiled with the C++ wrapper, whichever is fastest
here). Answers are remembered as OpenSpiel's AlphaZero evaluator does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from grove.bench.core.stage import Figures
from grove.bench.peers.network import COUNTS, Floats, PeerNetwork, check_same, random_boards
from grove.inference_server.backends.toolchain import compiler_fault
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.rows import RowSpec
from grove.mcts import SearchSettings
from grove.mcts.forest import temperature_table

REMEMBERED = 1 << 16
"""Positions that OpenSpiel's AlphaZero evaluator remembers by default."""
TRIAL_S = 0.3
Compile = Literal["eager", "compiled", "cpp_wrapper"]


@dataclass(frozen=True, kw_only=True)
class OpenSpielJob:
    """The job of one process; plain values."""

    row_spec: RowSpec
    network: PeerNetwork
    search: SearchSettings
    seed: int
    compiled: bool
    """Try compiled forms of the network too."""

    @contextmanager
    def make(self) -> Iterator[_Player]:
        """Import OpenSpiel and torch, find the fastest form of the network."""
        yield _Player(self)


class _Player:
    """Plays one game after another; search and rules are OpenSpiel's."""

    def __init__(self, job: OpenSpielJob) -> None:
        import pyspiel
        from open_spiel.python.algorithms import mcts

        self._random = np.random.RandomState(job.seed % (1 << 32))
        self._forms, self._evaluate = _fastest_form(job)
        self._difference = check_same(job.network, _rows_one_by_one(self._evaluate), job.network.parameters)
        self._game = pyspiel.load_game(job.row_spec.game)
        self._evaluator = Evaluator(self._game, self._evaluate)
        self._bot = mcts.MCTSBot(
            self._game,
            job.search.c_puct,
            job.search.simulations + 1,  # the first one evaluates the root; Grove counts from there
            self._evaluator,
            solve=False,  # a proven root would end a search early
            random_state=self._random,
            child_selection_fn=mcts.SearchNode.puct_value,
            dirichlet_noise=(job.search.noise_fraction, job.search.noise_alpha or 10 / job.row_spec.num_actions),
        )
        self._temperatures = temperature_table(job.search.temperature)
        self._state = self._game.new_initial_state()

    def ready(self) -> dict[str, Any]:
        return {"positions_per_second": self._forms, "difference": self._difference}

    def measure(self, what: str, seconds: float) -> Figures:
        """Play moves until `seconds` are over."""
        totals = dict.fromkeys(COUNTS, 0.0)
        computed, began = self._evaluator.computed, time.perf_counter()
        while time.perf_counter() - began < seconds:
            self._move(totals)
        took = time.perf_counter() - began
        return totals | {"seconds": took, "evaluations": float(self._evaluator.computed - computed)}

    def _move(self, totals: dict[str, float]) -> None:
        children = self._bot.mcts_search(self._state).children
        visits = np.array([child.explore_count for child in children], np.float64)
        self._state.apply_action(children[self._drawn(visits)].action)
        totals["moves"] += 1
        totals["simulations"] += visits.sum()
        shares = visits[visits > 0] / visits.sum()
        totals["entropy"] -= float((shares * np.log(shares)).sum())
        if self._state.is_terminal():
            totals["games"] += 1
            totals["game_moves"] += self._state.move_number()
            totals["game_moves_squared"] += self._state.move_number() ** 2
            self._state = self._game.new_initial_state()

    def _drawn(self, visits: npt.NDArray[np.float64]) -> int:
        ply = self._state.move_number()
        temperature = self._temperatures[min(ply, len(self._temperatures) - 1)]
        if temperature == 0:
            return int(visits.argmax())
        weights = visits ** (1 / temperature)
        return int(self._random.choice(len(visits), p=weights / weights.sum()))


class Evaluator:
    """What OpenSpiel's bot asks: values of both seats, and priors of the legal moves; one call of the network a row."""

    def __init__(self, game: Any, evaluate: Any) -> None:
        from open_spiel.python.observation import make_observation
        from open_spiel.python.utils.lru_cache import LRUCache

        self._observation = make_observation(game)
        self._evaluate, self._cache = evaluate, LRUCache(REMEMBERED)
        self.computed = 0
        """Positions that the network was asked about."""

    def evaluate(self, state: Any) -> list[float]:
        """Return the value of each seat."""
        value = self._answer(state)[1]
        return [-value, value] if state.current_player() else [value, -value]

    def prior(self, state: Any) -> list[tuple[int, float]]:
        """Return the probability of each legal move."""
        logits = self._answer(state)[0]
        legal = state.legal_actions()
        highest = max(logits[action] for action in legal)
        weights = [math.exp(logits[action] - highest) for action in legal]
        whole = sum(weights)
        return [(action, weight / whole) for action, weight in zip(legal, weights, strict=True)]

    def row(self, state: Any) -> npt.NDArray[np.uint8]:
        """Return Grove's row [1, 2, 6, 7]: the mover's stones, then the other's, top row first."""
        mover = state.current_player()
        self._observation.set_from(state, mover)
        seats = self._observation.tensor.reshape(3, 6, 7)[:2, ::-1]  # the third plane is the empty cells
        return np.ascontiguousarray(seats[None, ::-1] if mover else seats[None], np.uint8)

    def _answer(self, state: Any) -> tuple[list[float], float]:
        row = self.row(state)
        answer: tuple[list[float], float] = self._cache.make(row.tobytes(), lambda: self._compute(row))
        return answer

    def _compute(self, row: npt.NDArray[np.uint8]) -> tuple[list[float], float]:
        self.computed += 1
        logits, values = self._evaluate(row)
        return logits[0].tolist(), float(values[0, 0])


def _fastest_form(job: OpenSpielJob) -> tuple[dict[str, float], Any]:
    """Return the positions per second of every form of the network, and the fastest of them."""
    from grove.workers.selfplay.direct import DirectNetwork

    kinds: list[Compile] = ["eager"]
    if job.compiled and not compiler_fault():
        kinds += ["compiled", "cpp_wrapper"]
    settings = NetworkSettings(model=job.network.model, device="cpu", dtype="fp32")
    forms = {kind: DirectNetwork(job.row_spec, settings, kind) for kind in kinds}
    rates = {kind: _rate(form.evaluate, random_boards(job.row_spec, 1)) for kind, form in forms.items()}
    return {str(kind): rate for kind, rate in rates.items()}, forms[max(kinds, key=lambda kind: rates[kind])].evaluate


def _rate(evaluate: Any, row: npt.NDArray[Any]) -> float:
    evaluate(row)
    calls, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < TRIAL_S:
        evaluate(row)
        calls += 1
    return calls / took


def _rows_one_by_one(evaluate: Any) -> Any:
    def all_rows(rows: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        answers = [tuple(part.copy() for part in evaluate(rows[i : i + 1])) for i in range(len(rows))]
        return np.concatenate([logits for logits, _ in answers]), np.concatenate([values for _, values in answers])

    return all_rows
