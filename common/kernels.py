"""The decorator for compiled functions and the folder their machine code is cached in.

Numba re-uses a cached kernel although a function that it calls in another file has changed, so the folder is named by
a hash of all kernel sources and the numba version: change one source and everything is compiled anew. Setting that
folder is the one thing in Grove that happens at import.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numba
from numba.core.dispatcher import Dispatcher

_ROOT = Path(__file__).resolve().parent.parent
_KERNEL_ROOMS = ("game", "mcts")
"""Rooms whose files all count: kernels of many of them use constants of the others."""
_OTHER_ROOMS = ("common", "workers")
"""Rooms of which only files with kernels count, and this file: no other change costs a minute of compiling."""


def kernel_sources() -> list[Path]:
    """Return the source files whose change must discard every cached kernel, sorted."""
    whole = [path for room in _KERNEL_ROOMS for path in (_ROOT / room).rglob("*.py")]
    others = [path for room in _OTHER_ROOMS for path in (_ROOT / room).rglob("*.py")]
    return sorted([*whole, *(path for path in others if b"from grove.common.kernels import" in path.read_bytes())])


def source_hash(sources: list[Path]) -> str:
    """Return 16 hex digits that change with any byte of `sources` or with the numba version."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sources:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_home() -> Path:
    """Return the user's cache folder for Grove (XDG_CACHE_HOME or ~/.cache, else the temporary folder)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    home = Path(base) / "grove"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        home = Path(tempfile.gettempdir()) / "grove-cache"
        home.mkdir(mode=0o700, exist_ok=True)
    return home


numba.config.CACHE_DIR = str(cache_home() / "kernels" / source_hash(kernel_sources()))

kernel = numba.njit(cache=True, nogil=True)
"""Decorate a module-level function: compiled on first call, cached on disk, runs without the GIL."""

lean_kernel = numba.njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
"""A kernel that allocates no array. Numba counts references on every array that is passed to a function, two atomic
operations each, which cost short helpers in a loop more than their work; without its runtime there are none."""


def bind(function: Any, *examples: Any) -> Any:
    """Return kernel `function` compiled for the types of `examples`, without numba's look-up of types at each call.

    The look-up is half the cost of calling a kernel on arrays of records. Whoever calls the result promises arguments
    of exactly these types: nothing checks them. A function that is no kernel is returned as it is.
    """
    if not isinstance(function, Dispatcher):
        return function
    signature = tuple(numba.typeof(example) for example in examples)
    function.compile(signature)
    return function.overloads[signature].entry_point
