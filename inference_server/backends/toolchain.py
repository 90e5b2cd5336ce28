"""Whether torch.compile can work on this machine. Torch-free."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path


def compiler_fault() -> str:
    """Return what torch.compile lacks here (C++ compiler or Python headers), or an empty text."""
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None and shutil.which("clang++") is None:
        return f"no C++ compiler ({compiler})"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return "" if header.exists() else f"no Python headers ({header})"
