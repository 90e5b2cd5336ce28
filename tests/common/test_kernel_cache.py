"""A changed callee in another file discards cached kernels: numba alone would go on using the old machine code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grove.common.kernels import kernel_sources, source_hash

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

CALLEE = """
from grove.common.kernels import kernel
@kernel
def worth(x):
    return x + 1
"""
CALLER = """
from grove.common.kernels import kernel
from grove.common.callee import worth
@kernel
def twice(x):
    return 2 * worth(x)
"""
SCRIPT = """
import numba
from grove.game.caller import twice
print(twice(10), sum(twice.stats.cache_hits.values()), numba.config.CACHE_DIR)
"""


def run(folder: Path) -> tuple[int, int, str]:
    """Return what a fresh process computes, how many kernels it took from the cache, and the cache folder."""
    environment = os.environ | {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-P", "-c", SCRIPT]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    value, hits, cache = done.stdout.split(maxsplit=2)
    return int(value), int(hits), cache.strip()


def test_editing_a_callee_recompiles_its_callers(tmp_path: Path) -> None:
    for room in ("common", "game"):
        shutil.copytree(ROOT / room, tmp_path / "grove" / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "grove" / "common" / "callee.py").write_text(CALLEE)
    (tmp_path / "grove" / "game" / "caller.py").write_text(CALLER)
    (tmp_path / "grove" / "__init__.py").touch()
    first, again = run(tmp_path), run(tmp_path)
    assert first[:2] == (22, 0)
    assert again[:2] == (22, 1)
    assert again[2] == first[2]
    assert first[2].startswith(str(tmp_path / "cache"))
    (tmp_path / "grove" / "common" / "callee.py").write_text(CALLEE.replace("x + 1", "x + 2"))
    edited = run(tmp_path)
    assert edited[:2] == (24, 0)
    assert edited[2] != first[2]


def test_hash_depends_on_every_source(tmp_path: Path) -> None:
    sources = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in sources:
        path.write_text("x = 1")
    before = source_hash(sources)
    sources[1].write_text("x = 2")
    assert source_hash(sources) != before
    names = {str(path.relative_to(ROOT)) for path in kernel_sources()}
    assert {"common/rng.py", "game/hex.py", "mcts/kernels/layout.py", "workers/selfplay/row_kernels.py"} <= names
    assert not {"common/errors.py", "workers/pool/pool.py"} & names, "what holds no kernel discards none"
