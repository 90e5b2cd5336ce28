"""`grove report`: runs and measurements as one HTML page that needs nothing but the pictures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from grove.common.errors import RecordError, SettingError
from grove.run.folder import new_path


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page about runs and whatever was measured."""

    folders: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, and folders that `grove bench` or `grove profile` wrote."""
    out: str | None = None
    """The page (NAME.html) or a folder for it; its pictures lie beside it. By default report.html in the only folder,
    or in a new one under runs/ when there are several."""


def report(settings: Report) -> int:
    """Write the page and say where it is; returns the exit status."""
    from grove.bench.report.page import is_page, make_page

    if not settings.folders:
        raise SettingError("no folder is given; name run folders or folders of `grove bench`, e.g. runs/first")
    first = Path(settings.folders[0])
    path = Path(settings.out) if settings.out else first if len(settings.folders) == 1 else new_path("report")
    path = path if path.suffix in (".html", ".htm") else path / "report.html"
    if path.exists() and not is_page(path):
        raise SettingError.of("out", str(path), "it is there and no page of this command", "give another name")
    try:
        problems = make_page([Path(folder) for folder in settings.folders], path)
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error}); give a writable place as --out") from None
    print(f"{path}" + (f" ({problems} problems named in it)" if problems else ""))
    return 0
