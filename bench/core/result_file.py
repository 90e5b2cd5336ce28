"""The file that a measurement leaves: what was found, and beside it the command, the version and the machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from grove.common import machine


def write_result(path: Path, found: Mapping[str, Any]) -> None:
    """Write `found`, plain values, to a JSON file; the folder is made. Raises OSError."""
    content = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": ["python", *sys.orig_argv[1:]],
        **machine.provenance(),
        **found,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
