"""Imported by the fork server for workers only: what every worker needs, loaded and run once. Never imports torch."""

import os

import grove.inference_server
import grove.workers.selfplay.worker
from grove.workers.pool.fork_server import GAME_VARIABLE
from grove.workers.pool.parent_watch import ended_with_parent
from grove.workers.selfplay.warm import load_kernels

__all__ = ["grove"]

if spec := os.environ.get(GAME_VARIABLE):
    with ended_with_parent():
        load_kernels(spec)
