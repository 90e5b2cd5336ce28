"""Tuning: trials of other ways to run the same games, each beside the default in paired slices, then the best again.

The default's pool stays warm throughout, so that a machine that changes its speed changes both sides alike. What counts
is simulations per second by the default's (bench/tune/gain.py): in a slice of a second too few games end to be counted.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from dataclasses import replace

from grove.bench.core.estimate import Played
from grove.bench.core.peak import Peak
from grove.bench.core.slices import WarmPool
from grove.bench.limit.limit import PARTS, LimitAsked, measure_beside, network_alone, pool_plan
from grove.bench.limit.verdict import Verdict, judge
from grove.bench.tune.found import DEFAULT, Screen, TuneAsked, Tuned
from grove.bench.tune.search import Search, slice_seconds
from grove.bench.tune.space import Choice, make_space, settled

LIMIT_FROM_S = 60.0
"""Budget from which the limit of the default is measured: starting its parts takes as long as a trial."""


def run_tune(asked: TuneAsked, screen: Screen) -> Tuned:
    """Tune and return what was found; every process has ended by then. Ctrl-C ends it with what was found so far.

    Raises:
        GroveError: the network or the default cannot be run, or there is nothing to search.
        KeyboardInterrupt: before anything was found.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        with network_alone(asked.load, screen.say) as peak:
            found = peak.found
            # The number format is decided once; other formats are a setting.
            load = replace(asked.load, network=replace(asked.load.network, dtype=found["backend"]["dtype"]))
            stack.callback(shutil.rmtree, load.out / "games", ignore_errors=True)
            plan = replace(pool_plan(load), games_folder=load.out / "games" / DEFAULT)
            default = stack.enter_context(WarmPool(DEFAULT, plan))
            default.start()
            choice = _choice_of(load, default)
            screen.say(f"the default: {choice}")
            limit = _limit(load, peak, default, screen) if load.seconds >= LIMIT_FROM_S else None
        space = make_space(asked.load, choice, asked.knobs, found, limit.knob if limit else None)
        tuned = Tuned(default=choice, network=found, limit=limit)
        search = Search(asked, space, default, tuned, screen)
        try:
            search.run(began)
            search.measure_again(began)
        except KeyboardInterrupt:
            if not any(trial.pairs for trial in tuned.trials):
                raise
            tuned.interrupted = True
        tuned.played.append(Played.by(default))
    tuned.seconds = time.monotonic() - began
    return tuned


def _limit(load: LimitAsked, peak: Peak, default: WarmPool, screen: Screen) -> Verdict:
    """Return what binds the default and the setting that `grove bench limit` would turn; its slices are a trial's."""
    seconds = len(PARTS) * slice_seconds(load.seconds)
    found = measure_beside(replace(load, seconds=seconds), peak, default, 1, lambda _: None)
    verdict = judge(found.measured)
    screen.say(f"its limit: {verdict.text}; next: {verdict.knob.change}, expected {verdict.gain:.2f}x")
    return verdict


def _choice_of(load: LimitAsked, warm: WarmPool) -> Choice:
    """Return what the default came to, its kind of pool decided."""
    pool, server = load.pool, load.server
    wanted = {
        **{"pool": warm.pool.pool_kind, "workers": pool.workers, "games_per_worker": pool.games_per_worker},
        **{"groups": pool.groups, "max_batch": server.max_batch, "max_delay_us": server.max_delay_us},
        **{"lanes": server.lanes, "dtype": load.network.dtype, "cache": load.search.cache},
    }
    return settled(load, wanted)
