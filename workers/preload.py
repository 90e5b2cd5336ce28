"""Imported by the forkserver only: what every worker process needs, loaded and run once. Never imports torch."""

import inference_server
import workers.worker
from workers.warm import warm_preloaded

__all__ = ["inference_server", "workers"]

warm_preloaded()
