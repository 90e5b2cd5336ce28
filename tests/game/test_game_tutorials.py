"""The tutorials run as printed, in a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", ["own-compiled-game.md", "own-game.md", "own-network.md"])
def test_tutorial_runs_as_printed(page: str, tmp_path: Path) -> None:
    """Save the named blocks and run the others as one script, from the folder that holds them."""
    blocks = BLOCK.findall((ROOT / "docs" / "tutorials" / page).read_text())
    for name, code in blocks:
        if name:
            (tmp_path / name).write_text(code)
    script = "\n".join(code for name, code in blocks if not name)
    assert "check" in script
    # -P keeps the folder off the front of the import path, as for the installed command.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
