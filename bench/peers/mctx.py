"""The peer mctx + pgx: search and rules in JAX, one compiled function that plays one move of a whole batch of games.

Each process uses one core: two of them were twice as fast as one with two threads, because most operations of a search
are too small to be shared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from grove.bench.core.stage import Figures, Stage
from grove.bench.peers.network import COUNTS, PeerNetwork, check_same
from grove.common.rng import derive
from grove.game import load_game
from grove.mcts import SearchSettings
from grove.mcts.forest import temperature_table
from grove.workers.selfplay.stagger import play_ahead

PGX_GAMES = {"connect_four": "connect_four"}
"""Grove's games -> the same in pgx, with the same actions, planes and rewards."""
FIRST_BATCH = 16
"""Games of a process in the first trial."""
GAIN = 1.03
"""How much faster the double batch must be to be taken."""
TRIAL_S = 1.5
COMPILE_S = 240.0
"""Longest wait for a search to be compiled."""
FLAGS = "--xla_cpu_multi_thread_eigen=false"


@dataclass(frozen=True, kw_only=True)
class MctxJob:
    """The job of one process; plain values."""

    game_spec: str
    network: PeerNetwork
    search: SearchSettings
    seed: int
    core: int
    """The core that it is bound to."""

    @contextmanager
    def make(self) -> Iterator[_Player]:
        """Import JAX with one thread on one core."""
        os.sched_setaffinity(0, {self.core})
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
        os.environ["JAX_PLATFORMS"] = "cpu"
        yield _Player(self)


class _Player:
    def __init__(self, job: MctxJob) -> None:
        from grove.bench.peers import jax_net as net

        self._job = job
        folded, parameters = net.load_weights(job.network.model)
        self._weights = {dtype: net.cast(folded, dtype) for dtype in net.DTYPES}
        self._said = {
            f"difference_{dtype}": check_same(job.network, partial(_evaluate, weights), parameters, dtype)
            for dtype, weights in self._weights.items()
        }
        self._batches: dict[str, _Batch] = {}

    def ready(self) -> dict[str, Any]:
        return self._said

    def measure(self, what: str, seconds: float) -> Figures:
        """Play whole moves of all games of the batch "GAMES DTYPE" until `seconds` are over; 0 compiles it."""
        if what not in self._batches:
            games, dtype = what.split()
            self._batches[what] = _Batch(self._job, int(games), dtype, self._weights[dtype])
        return self._batches[what].play(seconds)


def choose_batch(stages: Sequence[Stage], most_games: int) -> tuple[str, dict[str, float]]:
    """Return the batch "GAMES DTYPE" with which all processes together are fastest, and the rates of those tried.

    Batches double as long as that is faster; the best one is tried in bf16 too.
    """
    rates: dict[str, float] = {}
    games, best = FIRST_BATCH, ""
    while games <= most_games:
        rate = _trial(stages, what := f"{games} fp32", rates)
        if best and rate < GAIN * rates[best]:
            break
        best, games = what, 2 * games
    half = f"{best.split()[0]} bf16"
    return (half if _trial(stages, half, rates) > rates[best] else best), rates


def _trial(stages: Sequence[Stage], what: str, rates: dict[str, float]) -> float:
    """Let all processes compile one batch, then play at the same time, twice; note the better rate."""
    for seconds in (0.0, TRIAL_S, TRIAL_S):
        for stage in stages:
            stage.begin(what, seconds)
        done = [stage.end(COMPILE_S) for stage in stages]
        if seconds:
            rates[what] = max(rates.get(what, 0.0), sum(part["simulations"] / part["seconds"] for part in done))
    return rates[what]


class _Batch:
    """Games that are played together, and the compiled function of their number."""

    def __init__(self, job: MctxJob, games: int, dtype: str, weights: Any) -> None:
        import jax
        import pgx

        self.games, self.dtype = games, dtype
        env = pgx.make(PGX_GAMES[job.game_spec])
        self._weights, self._key = weights, jax.random.PRNGKey(job.seed)
        self._states = staggered(env, job, games)
        self._turn = jax.jit(partial(_turn, env, job.search), donate_argnums=(2,))
        self._rows = games * (job.search.simulations + 1)

    def play(self, seconds: float) -> dict[str, float]:
        """Play at least one move of every game, until `seconds` are over; return counts and `seconds`."""
        import jax

        began, turns, totals = time.perf_counter(), 0, np.zeros(len(COUNTS))
        while not turns or time.perf_counter() - began < seconds:
            self._key, key = jax.random.split(self._key)
            self._states, counts = self._turn(self._weights, key, self._states)
            totals += np.asarray(counts)
            turns += 1
        took = time.perf_counter() - began
        done = {"seconds": took, "evaluations": float(turns * self._rows)}
        return done | dict(zip(COUNTS, totals.tolist(), strict=True))


def staggered(env: Any, job: MctxJob, count: int) -> Any:
    """Return the states of `count` games at random plies after random moves, as Grove's own measurements begin."""
    import jax
    import jax.numpy as jnp

    game = load_game(job.game_spec)
    keys = np.array([derive(np.uint64(job.seed), index) for index in range(count)], np.uint64)
    states = np.zeros(count, game.state_dtype)
    game.initial(keys, states)
    moves = play_ahead(game, states, keys, game.max_moves)
    found = jax.vmap(env.init)(jax.random.split(jax.random.PRNGKey(job.seed), count))
    step = jax.jit(jax.vmap(env.step))
    for ply in range(max(map(len, moves))):
        playing = jnp.array([ply < len(played) for played in moves])
        actions = jnp.array([played[ply] if ply < len(played) else 0 for played in moves])
        found = _where(playing, step(found, actions), found)
    return found


def _turn(env: Any, search: SearchSettings, weights: Any, key: Any, states: Any) -> tuple[Any, Any]:
    """Search and play one move of all games; finished ones start anew. Return the states and COUNTS."""
    import jax
    import jax.numpy as jnp
    import mctx

    search_key, draw_key, init_key = jax.random.split(key, 3)
    logits, values = _masked(weights, states)
    found = mctx.muzero_policy(
        params=weights,
        rng_key=search_key,
        root=mctx.RootFnOutput(prior_logits=logits, value=values, embedding=states),
        recurrent_fn=partial(_expand, env),
        num_simulations=search.simulations,
        invalid_actions=~states.legal_action_mask,
        dirichlet_fraction=search.noise_fraction,
        dirichlet_alpha=search.noise_alpha or 10 / env.num_actions,
        pb_c_init=search.c_puct,
        pb_c_base=search.c_puct_base,
    )
    visits = found.search_tree.summary().visit_counts
    after = jax.vmap(env.step)(states, _draw(search, draw_key, visits, states))
    shares = visits / visits.sum(-1, keepdims=True)
    entropy = -(shares * jnp.log(jnp.where(visits > 0, shares, 1.0))).sum()
    ended = jnp.where(after.terminated, after._step_count, 0)
    counts = jnp.stack([len(visits), visits.sum(), entropy, after.terminated.sum(), ended.sum(), (ended**2).sum()])
    fresh = jax.vmap(env.init)(jax.random.split(init_key, len(visits)))
    return _where(after.terminated, fresh, after), counts


def _expand(env: Any, weights: Any, key: Any, actions: Any, states: Any) -> tuple[Any, Any]:
    """Step into a leaf and evaluate it; an ended game has its reward and nothing beyond."""
    import jax
    import jax.numpy as jnp
    import mctx

    mover = states.current_player
    after = jax.vmap(env.step)(states, actions)
    logits, values = _masked(weights, after)
    reward = jnp.take_along_axis(after.rewards, mover[:, None], axis=1)[:, 0]
    return mctx.RecurrentFnOutput(
        reward=reward,
        discount=jnp.where(after.terminated, 0.0, -1.0),
        prior_logits=logits,
        value=jnp.where(after.terminated, 0.0, values),
    ), after


def _masked(weights: Any, states: Any) -> tuple[Any, Any]:
    import jax.numpy as jnp

    from grove.bench.peers.jax_net import apply

    logits, values = apply(weights, states.observation)
    return jnp.where(states.legal_action_mask, logits, jnp.finfo(jnp.float32).min), values


def _draw(search: SearchSettings, key: Any, visits: Any, states: Any) -> Any:
    """Draw moves from visits ** (1 / temperature), the most visited one at temperature 0."""
    import jax
    import jax.numpy as jnp

    table = jnp.asarray(temperature_table(search.temperature), jnp.float32)
    temperature = table[jnp.minimum(states._step_count, len(table) - 1)][:, None]
    drawn = jax.random.categorical(key, jnp.log(visits) / jnp.maximum(temperature, 1e-3))
    return jnp.where(temperature[:, 0] > 0, drawn, visits.argmax(-1))


def _where(which: Any, these: Any, others: Any) -> Any:
    """Return the states of games where `which` holds from `these`, else from `others`."""
    import jax
    import jax.numpy as jnp

    def choose(a: Any, b: Any) -> Any:
        return jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, these, others)


def _evaluate(weights: Any, rows: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Evaluate Grove's rows [n, planes, H, W]."""
    from grove.bench.peers.jax_net import apply

    logits, values = apply(weights, rows.transpose(0, 2, 3, 1))
    return np.asarray(logits), np.asarray(values)[:, None]
