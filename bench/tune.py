"""Tuning: trials of other ways to run the same games, each beside the default in paired slices, then the best again.

The default's pool stays warm throughout, so that a machine that changes its speed changes both sides alike. What counts
is simulations per second by the default's (bench/tune_gain.py): in a slice of a second too few games end to be counted.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from bench.estimate import Played
from bench.limit import LimitAsked, pool_plan
from bench.roof import Roof, RoofJob
from bench.slices import WarmPool
from bench.tune_found import DEFAULT, Screen, TuneAsked, Tuned
from bench.tune_search import Search
from bench.tune_space import Choice, make_space, settled
from game import load_game
from workers.evaluators import row_spec


def run_tune(asked: TuneAsked, screen: Screen) -> Tuned:
    """Tune and return what was found; every process has ended by then. Ctrl-C ends it with what was found so far.

    Raises:
        GroveError: the network or the default cannot be run, or there is nothing to search.
        KeyboardInterrupt: before anything was found.
    """
    began = time.monotonic()
    found = _network_alone(asked.load, screen)
    # The number format is decided once; other formats are a knob.
    load = replace(asked.load, network=replace(asked.load.network, dtype=found["backend"]["dtype"]))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, load.out / "games", ignore_errors=True)
        plan = replace(pool_plan(load), games_folder=load.out / "games" / DEFAULT)
        default = stack.enter_context(WarmPool(DEFAULT, plan))
        default.start()
        space = make_space(asked.load, _choice_of(load, default), asked.knobs, found)
        tuned = Tuned(default=space.default, network=found)
        screen.say(f"the default: {tuned.default}")
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


def _network_alone(load: LimitAsked, screen: Screen) -> dict[str, Any]:
    job = RoofJob(row_spec=row_spec(load_game(load.game_spec)), network=load.network, max_batch=load.server.max_batch)
    with Roof(job, load.game_spec) as roof:
        roof.wait_ready()
        found = roof.found
    best, backend = max(one["rows_per_second"] for one in found["tried"]), found["backend"]
    shape = f"{found['lanes']} lanes of {found['bucket']} rows"
    screen.say(f"the network alone: {best:,.0f} rows/s, {shape}, {backend['dtype']} on {backend['device']}")
    return found


def _choice_of(load: LimitAsked, warm: WarmPool) -> Choice:
    """Return what the default came to, its kind of pool decided."""
    pool, server = load.pool, load.server
    wanted = {
        **{"pool": warm.pool.pool_kind, "workers": pool.workers, "games_per_worker": pool.games_per_worker},
        **{"groups": pool.groups, "max_batch": server.max_batch, "max_delay_us": server.max_delay_us},
        **{"lanes": server.lanes, "dtype": load.network.dtype, "cache": load.search.cache},
    }
    return settled(load, wanted)
