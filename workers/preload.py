"""Imported by the nursery of workers only: what every worker needs, loaded and run once. Never imports torch."""

import os

import inference_server
import workers.worker
from workers.nursery import GAME_VARIABLE
from workers.orphans import ended_with_parent
from workers.warm import load_kernels

__all__ = ["inference_server", "workers"]

if spec := os.environ.get(GAME_VARIABLE):
    with ended_with_parent():
        load_kernels(spec)
