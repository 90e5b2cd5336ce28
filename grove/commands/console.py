"""Where commands print: text as it is."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console


def text_console(out: TextIO | None = None) -> Console:
    """Return a console for `out` (default stdout) that breaks no lines and finds no markup in names and messages."""
    return Console(file=out, highlight=False, markup=False, emoji=False, soft_wrap=True)
