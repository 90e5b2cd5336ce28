"""Only what owns a network imports torch: the supervisor and a served worker process never do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.command import ROOT

WITHOUT_TORCH = [
    *("grove.common.machine", "grove.game", "grove.mcts", "grove.inference_server"),
    *("grove.inference_server.channels.zmq_client", "grove.workers.pool.pool", "grove.workers.selfplay.worker"),
    *("grove.workers.pool.worker_entry", "grove.workers.pool.server_entry", "grove.workers.pool.search_threads"),
    *("grove.workers.pool.preload", "grove.workers.pool.figures", "grove.cli", "grove.api"),
    *("grove.commands.selfplay", "grove.run.settings", "grove.commands.show", "grove.commands.doctor"),
    *("grove.live.view", "grove.commands.data"),
]


def python(arguments: list[str], cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_rooms_import_without_torch(tmp_path: Path) -> None:
    python(["-c", f"import sys, {', '.join(WITHOUT_TORCH)}\nassert 'torch' not in sys.modules"], tmp_path)


def test_a_server_without_search_threads_imports_no_kernels(tmp_path: Path) -> None:
    python(["-c", "import sys, grove.inference_server.backends.backend, grove.workers.pool.server_entry\n"
            "assert 'numba' not in sys.modules"], tmp_path)


SPY = """
import sys
from pathlib import Path

from grove.workers.pool import worker_entry

played = worker_entry.main


def main(*arguments):
    played(*arguments)
    Path(f"modules-{arguments[0].worker}").write_text(chr(10).join(sys.modules))
"""
PLAY = """
import sys
from pathlib import Path

import spy
from grove.inference_server import ServerSettings
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.mcts import SearchSettings
from grove.workers.pool import worker_entry
from grove.workers.selfplay.game_scheduler import GameScheduler
from grove.workers.pool.plan import PoolPlan, Sizes
from grove.workers.pool.pool import Pool

if __name__ == "__main__":
    worker_entry.main = spy.main
    plan = PoolPlan(
        game_spec="connect_four",
        run_seed=1,
        games_folder=Path("."),
        search=SearchSettings(simulations=8),
        network=NetworkSettings(network="mlp:layers=1,width=8", device="cpu", dtype="fp32", compile="off"),
        server=ServerSettings(max_batch=16),
        evaluator="server",
        pool="process",
        sizes=Sizes(workers=2, games=4),
    )
    with Pool(plan, GameScheduler(range(12))) as pool:
        pool.start()
        while pool.scheduler.left:
            pool.pump(0.1)
    assert "torch" not in sys.modules
"""
"""A pool whose workers write down at their end which modules they have."""


def test_a_served_worker_process_and_its_supervisor_never_import_torch(tmp_path: Path) -> None:
    (tmp_path / "spy.py").write_text(SPY)
    (tmp_path / "play.py").write_text(PLAY)
    python(["play.py"], tmp_path)
    for worker in (0, 1):
        modules = (tmp_path / f"modules-{worker}").read_text().split()
        assert "grove.inference_server.channels.zmq_client" in modules
        assert "torch" not in modules
