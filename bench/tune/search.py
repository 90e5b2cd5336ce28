"""The search of a tuning: Optuna proposes, a pool plays slices in turn with the default's, what falls behind is cut."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import mean

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from grove.bench.core.compare import play_round, slice_length
from grove.bench.core.estimate import Played
from grove.bench.core.rounds import LEAST_ROUNDS, Round, quiet_rounds
from grove.bench.core.slices import WarmPool
from grove.bench.tune.found import DEFAULT, Screen, Trial, TuneAsked, Tuned
from grove.bench.tune.gain import LEAST_QUIET, gain_of
from grove.bench.tune.seeds import make_seeds
from grove.bench.tune.space import Choice, Space
from grove.common.errors import PoolError, SettingError

PAIRS = 3
"""Slices of a trial that is not cut, each beside one of the default."""
LONGEST_SLICE_S, SHORTEST_SLICE_S = 1.0, 0.2
_SLICES = 120
"""Slices that the whole budget is worth, to choose their length."""
AGAIN_SHARE = 0.2
"""Part of the budget for measuring the best again; the start of its pool comes on top."""
FINALISTS = 2
NEARLY = 0.97
"""Share of the best trial's gain from which the second best is measured again too: trials are short."""
CACHE_SHARE = 0.05
"""Part of the budget that filling a trial's cache may take."""
_START_S = 5.0
"""Seconds that a pool is taken to need for its start before one was timed."""
_IDLE_ASKS = 60
"""Proposals in a row that are known or cannot be played, after which nothing new is left to try."""


class Search:
    """Tries proposals beside the default, whose pool is warm."""

    def __init__(self, asked: TuneAsked, space: Space, default: WarmPool, tuned: Tuned, screen: Screen) -> None:
        """`tuned` is filled as things are found."""
        self._asked, self._space, self._default, self._tuned, self._screen = asked, space, default, tuned, screen
        self._budget_s = asked.load.seconds
        self._slice_s = slice_seconds(self._budget_s)
        self._gains: dict[Choice, float] = {space.default: 1.0}
        """What is known of choices: none is measured twice."""

    # -- trials ----------------------------------------------------------------------------------------------------

    def run(self, began: float) -> None:
        """Try one proposal after another, one at least, until the rest of the budget is needed for the best again."""
        seeds = make_seeds(self._space, self._tuned.network, self._tuned.limit)
        study = make_study(self._asked.load.seed, len(seeds))
        for seed in seeds:
            study.enqueue_trial(seed.params, user_attrs={"why": seed.why, "expected": seed.expected})
        ranges, idle, tried = distributions(self._space), 0, 0
        while idle < _IDLE_ASKS:
            left = began + self._budget_s - self._reserve_s() - time.monotonic()
            if left < 0 and tried:
                return
            if self._consider(study, study.ask(ranges), left):
                idle, tried = 0, tried + 1
            else:
                idle += 1

    def _reserve_s(self) -> float:
        """Return the seconds to keep for the last measurement, and for a trial that begins now."""
        timed = [trial for trial in self._tuned.trials if trial.start_s]
        start_s = mean(trial.start_s for trial in timed) if timed else _START_S
        trial_s = mean(trial.seconds for trial in timed) if timed else _START_S + 2 * PAIRS * self._slice_s
        return AGAIN_SHARE * self._budget_s + max(1, len(self._finalists())) * start_s + trial_s

    def _consider(self, study: optuna.Study, proposal: optuna.Trial, left_s: float) -> bool:
        """Try a proposal if it is new and can be played; return whether a pool was started for it."""
        about = {"why": "searched"} | proposal.user_attrs
        trial = Trial(number=len(self._tuned.trials), why=about["why"], expected=about.get("expected"))
        try:
            trial.choice = self._space.choice(proposal.params)
        except SettingError as error:
            trial.state, trial.note = "skipped", str(error)
            self._tuned.trials.append(trial)
            study.tell(proposal, state=optuna.trial.TrialState.PRUNED)  # the sampler ranks it last
            return False
        if trial.choice in self._gains:
            for step in range(PAIRS if trial.choice == self._space.default else 0):
                proposal.report(1.0, step)  # what is slower than the default is cut from the first trial on
            study.tell(proposal, self._gains[trial.choice])
            return False
        self._screen.begins(trial, left_s)
        self._tuned.trials.append(trial)
        self._play(trial, trial.choice, proposal)
        if trial.state == "measured":
            study.tell(proposal, trial.gain)
        else:
            study.tell(proposal, state=optuna.trial.TrialState.PRUNED)
        self._gains[trial.choice] = trial.gain
        self._screen.ended(trial)
        return True

    def _play(self, trial: Trial, choice: Choice, proposal: optuna.Trial) -> None:
        """Start the trial's pool and play its pairs; a pool that cannot work is a failed trial."""
        began = time.monotonic()
        try:
            with self._warm(f"trial-{trial.number}", choice) as (warm, turn_s):
                trial.start_s = time.monotonic() - began
                self._play_pairs(trial, warm, turn_s, proposal)
                trial.played = Played.by(warm)
        except (PoolError, OSError) as error:  # OSError: the system gives no more processes or memory
            trial.state, trial.note = "failed", str(error) or type(error).__name__
        finally:
            trial.seconds = time.monotonic() - began

    def _play_pairs(self, trial: Trial, warm: WarmPool, turn_s: float, proposal: optuna.Trial) -> None:
        """Play slices of the trial and of the default, each first in every second pair.

        With a cache all pairs together last for `turn_s`, and none is cut: most hits come soon after a decision, and
        trees whose roots were set together are decided together.
        """
        seconds = {DEFAULT: self._slice_s, warm.name: max(self._slice_s, turn_s / PAIRS)}
        for step in range(PAIRS):
            pair = [self._default, warm]
            done = {pool.name: pool.play(seconds[pool.name]) for pool in (pair if step % 2 else pair[::-1])}
            self._default.look_after()
            trial.pairs.append((done[warm.name], done[DEFAULT]))
            proposal.report(trial.gain, step)
            if step + 1 < PAIRS and not turn_s and proposal.should_prune():
                trial.state = "cut"
                return

    @contextmanager
    def _warm(self, name: str, choice: Choice) -> Iterator[tuple[WarmPool, float]]:
        """Start the pool of a choice and fill its cache; yield it with the seconds that took, 0 without a cache.

        What a game's next decision asks again is in the cache once every game has made one, as far as the budget
        allows.
        """
        plan = replace(self._space.plan(choice), games_folder=self._asked.load.out / "games" / name)
        with WarmPool(name, plan) as warm:
            warm.start()
            began, games = time.monotonic(), choice.workers * choice.games_per_worker
            limit_s = CACHE_SHARE * self._budget_s
            while choice.cache and _decisions(warm) < games and time.monotonic() - began < limit_s:
                warm.play(self._slice_s)
            yield warm, time.monotonic() - began if choice.cache else 0.0

    # -- the best again --------------------------------------------------------------------------------------------

    def measure_again(self, began: float) -> None:
        """Measure the best trials again, in new pools and rounds of slices in turn with the default."""
        finalists = self._finalists()
        with ExitStack() as stack:
            pools = {DEFAULT: self._default}
            for trial in finalists:
                assert trial.choice is not None, "it was measured"
                name = f"trial {trial.number}"
                self._screen.say(f"again: {trial.choice}")
                pools[name] = stack.enter_context(self._warm(name, trial.choice))[0]
                self._tuned.finalists[name] = trial
            if finalists:
                self._play_rounds(pools, began)

    def _finalists(self) -> list[Trial]:
        """Return the best trial that was not cut, and others that came near it."""
        ahead = [trial for trial in self._tuned.ahead() if trial.state == "measured"][:FINALISTS]
        return [trial for trial in ahead if trial.gain >= NEARLY * ahead[0].gain]

    def _play_rounds(self, pools: dict[str, WarmPool], began: float) -> None:
        tuned, limit = self._tuned, self._asked.probe_limit
        left_s = max(AGAIN_SHARE * self._budget_s, began + self._budget_s - time.monotonic())
        slice_s, count = slice_length(left_s, len(pools))
        count = max(count, LEAST_QUIET)
        self._screen.say(f"{count} rounds of {slice_s:.1f} s each, more while fewer than {LEAST_QUIET} are quiet")
        try:
            while not enough(tuned.rounds, count, limit):
                tuned.rounds.append(play_round(pools, None, slice_s, len(tuned.rounds)))
        finally:  # an interrupt leaves the rounds so far
            if len(tuned.rounds) >= LEAST_ROUNDS:
                tuned.gains = {name: gain_of(tuned.rounds, name, DEFAULT, limit) for name in tuned.finalists}
        tuned.played = [Played.by(warm) for name, warm in pools.items() if name != DEFAULT]


def slice_seconds(budget_s: float) -> float:
    """Return the seconds of a slice of a tuning."""
    return min(max(budget_s / _SLICES, SHORTEST_SLICE_S), LONGEST_SLICE_S)


def _decisions(warm: WarmPool) -> float:
    return warm.pool.totals().get("decisions", 0)


def enough(rounds: Sequence[Round], count: int, limit: float) -> bool:
    """Return whether `count` rounds were played and enough of them are quiet, or twice as many without avail."""
    quiet = len(quiet_rounds(rounds, limit)) if rounds else 0
    return len(rounds) >= count and (quiet >= LEAST_QUIET or len(rounds) >= 2 * count)


def make_study(seed: int, seeds: int) -> optuna.Study:
    """Return a study that maximises the gain; it samples by what it knows as soon as `seeds` trials are over."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=seeds, multivariate=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    return optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return what Optuna may propose: a place in every ladder of numbers, or one of the words."""
    return {
        name: CategoricalDistribution(ladder) if isinstance(ladder[0], str) else IntDistribution(0, len(ladder) - 1)
        for name, ladder in space.ladders.items()
    }
