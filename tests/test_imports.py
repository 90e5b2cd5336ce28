"""Only what owns a network imports torch: the supervisor and a served worker process never do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

WITHOUT_TORCH = [
    *("common.machine", "game", "mcts", "inference_server", "inference_server.zmq_client", "workers.pool"),
    *("workers.worker", "workers.process_worker", "workers.host", "workers.search_threads", "workers.preload"),
    *("workers.figures", "grove.cli", "grove.selfplay", "grove.settings", "grove.show", "grove.doctor", "grove.live"),
    "grove.data",
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
    python(["-c", "import sys, inference_server.backend, workers.host\nassert 'numba' not in sys.modules"], tmp_path)


SPY = """
import sys
from pathlib import Path

from inference_server import ServerSettings
from inference_server.network_settings import NetworkSettings
from mcts import SearchSettings
from workers import process_worker
from workers.index_book import IndexBook
from workers.plan import PoolPlan, Sizes
from workers.pool import Pool

played = process_worker.main


def main(*arguments):
    played(*arguments)
    Path(f"modules-{arguments[0].worker}").write_text(chr(10).join(sys.modules))


if __name__ == "__main__":
    process_worker.main = main
    plan = PoolPlan(
        game_spec="connect_four",
        run_seed=1,
        games_folder=Path("."),
        search=SearchSettings(simulations=8),
        network=NetworkSettings(network="mlp:layers=1,width=8", device="cpu", dtype="fp32", compile="off"),
        server=ServerSettings(max_batch=16),
        evaluator="server",
        pool="process",
        thread_sizes=Sizes(workers=1, games=4),
        process_sizes=Sizes(workers=2, games=4),
    )
    with Pool(plan, IndexBook(range(12))) as pool:
        pool.start()
        while pool.book.left:
            pool.pump(0.1)
    assert "torch" not in sys.modules
"""
"""A pool whose workers write down at their end which modules they have."""


def test_a_served_worker_process_and_its_supervisor_never_import_torch(tmp_path: Path) -> None:
    script = tmp_path / "spy.py"
    script.write_text(SPY)
    python([str(script)], tmp_path)
    for worker in (0, 1):
        modules = (tmp_path / f"modules-{worker}").read_text().split()
        assert "inference_server.zmq_client" in modules
        assert "torch" not in modules
