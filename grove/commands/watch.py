"""`grove watch RUN`: the view of a run in another terminal, or as a page, from the run folder alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from grove.common.errors import SettingError
from grove.live.reader import RunReader, Status
from grove.live.snapshot import Snapshot
from grove.live.view import LiveView
from grove.run.summary import print_summary

_POLL_S = 0.5
"""Seconds between two looks at the folder; a run writes every 5 s."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Watch a run from another terminal or, with --web, in a browser; works on a finished run too."""

    run: tyro.conf.Positional[str]
    """Run folder."""
    web: bool = False
    """Show charts over time as a page of this machine instead, until Ctrl-C."""
    port: int = 0
    """Port of the page on 127.0.0.1; 0 = a free one, which is said."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingError.of("port", self.port, "it must lie in 0..65535", "choose such a number, or leave it out")
        if self.port and not self.web:
            raise SettingError.of("port", self.port, "only the page has a port", "add --web")


def watch(settings: Watch) -> int:
    """Show the run until it has ended, or its page until Ctrl-C; returns the exit status."""
    reader = RunReader(Path(settings.run))
    if settings.web:
        from grove.live.web import serve_page

        return serve_page(reader, settings.port)
    status = _follow(reader)
    print(_end_text(reader, status))
    if status.kind in ("finished", "stopped"):
        print_summary(reader.summary, str(reader.path))
    return 0


def _follow(reader: RunReader) -> Status:
    status = reader.refresh()
    with LiveView(reader.total) as view:
        shown = -1
        while True:
            if reader.count != shown or status.ended:
                shown = reader.count
                view.total = reader.total
                view.update(_state(reader, status))
            if status.ended:
                return status
            time.sleep(_POLL_S)
            status = reader.refresh()


def _state(reader: RunReader, status: Status) -> Snapshot:
    """Return what is known of the run as the live view takes it."""
    state: dict[str, Any] = {**reader.chosen, **reader.last}
    state["state"] = "" if status.kind == "playing" else status.kind
    if status.ended and "games" in reader.summary:
        state["games"] = reader.summary["games"]
    return state


def _end_text(reader: RunReader, status: Status) -> str:
    return f"{reader.path}, played for {reader.played_text()}: {status.text}"
