"""Compile or load every kernel of a game before workers start: first-time cache writes by two processes at once can
crash, and a forkserver whose kernels are loaded makes workers start at once.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress

from game import load_game
from mcts import SearchSettings, make_cache
from workers.evaluators import HashEvaluator, row_spec
from workers.group import Group

GAME_VARIABLE = "GROVE_PRELOAD_GAME"
"""Environment variable that names the game whose kernels `workers.preload` loads."""
FOLDER_VARIABLE = "GROVE_FORKSERVER_FOLDER"
"""Environment variable that names the folder of the forkserver's socket."""
_LOOK_S = 0.5


def warm(game_spec: str) -> None:
    """Play two short games with every option that has a kernel of its own."""
    game = load_game(game_spec)
    hidden = game.hidden_information
    for settings in (
        SearchSettings(simulations=4, cache=16, temperature="0:1,2:0"),
        SearchSettings(simulations=6, reuse=not hidden, worlds=2 if hidden else 1, leaves=2, max_moves=8),
    ):
        group = Group(game, game.name, settings, 2, make_cache(game, settings))
        _play(group, HashEvaluator(row_spec(game)))


def _play(group: Group, evaluator: HashEvaluator) -> None:
    group.start(1, range(2))
    for lap in range(200):
        for _ in range(64):
            decided = group.forest.grow()
            if not len(decided):
                break
            group.play(decided)
        rows = group.forest.ask()
        if not len(rows.ids):
            return
        ids = rows.ids.copy()
        rows.legal()
        if lap == 1:
            group.forest.drop(ids)
            continue
        evaluator.submit(rows)
        answer = evaluator.collect(0)
        assert answer is not None, "the hash evaluator answers at once"
        group.forest.tell(ids, answer.logits, answer.values, answer.version)


def warm_preloaded() -> None:
    """Warm the game that the environment names.

    A game or a kernel that fails is left to the process that uses it, which can say so; this one would end without a
    word. It ends, too, when its parent is gone: compiling may take minutes.
    """
    spec = os.environ.get(GAME_VARIABLE)
    if not spec:
        return
    done = threading.Event()
    watch = threading.Thread(target=_end_with_parent, args=(os.getppid(), done))
    watch.start()
    try:
        with suppress(Exception):
            warm(spec)
    finally:
        done.set()
        watch.join()  # what forks has one thread


def _end_with_parent(parent: int, done: threading.Event) -> None:
    while not done.wait(_LOOK_S):
        if os.getppid() != parent:
            if folder := os.environ.get(FOLDER_VARIABLE):
                shutil.rmtree(folder, ignore_errors=True)  # nobody else is there to do so
            os._exit(1)
