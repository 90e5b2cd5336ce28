"""`grove report`: runs and measurements as one HTML page that needs nothing but the pictures beside it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import tyro

from grove.common import machine
from grove.common.errors import RecordError, SettingError
from grove.report.html import GENERATOR, Html, Part, join, listed, page, picture, table, tag
from grove.report.read import OWN_PREFIX, Source, read_sources
from grove.report.sections import Section, provenance, section_of
from grove.run.folder import write_whole

_KIND_NAMES = {
    "selfplay": "self-play run",
    "compare": "comparison",
    "peers": "comparison with peers",
    "sweep": "sweep",
    "limit": "limit",
    "profile": "profile",
    "tune": "tuning",
    "soak": "soak",
    "other": "figures",
}


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
    sources = read_sources(list(settings.folders))
    path = _page_path(settings, sources)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = [(section, _pictures(section, path.parent)) for section in map(section_of, sources)]
        write_whole(path, page(_title(sources), _body(made)))
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error}); give a writable place as --out") from None
    problems = sum(len(section.source.problems) for section, _ in made)
    print(f"{path}" + (f" ({problems} problems named in it)" if problems else ""))
    return 0


def _page_path(settings: Report, sources: Sequence[Source]) -> Path:
    if settings.out is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = sources[0].path if len(sources) == 1 else Path("runs") / f"report-{stamp}"
        path = folder / "report.html"
    else:
        path = Path(settings.out)
        path = path if path.suffix in (".html", ".htm") else path / "report.html"
    if path.exists() and not _is_ours(path):
        limit = "it is there and no page of this command"
        raise SettingError.of("out", str(path), limit, "give another name")
    return path


def _is_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return f'content="{GENERATOR}"' in file.read(2048)
    except OSError:
        return False


def _title(sources: Sequence[Source]) -> str:
    return f"Grove: {sources[0].name}" if len(sources) == 1 else f"Grove: {len(sources)} runs and measurements"


# -- pictures ----------------------------------------------------------------------------------------------------------


def _pictures(section: Section, folder: Path) -> list[Html]:
    """Bring the pictures of a section beside the page; return them as HTML, our own first."""
    return [*_drawn(section, folder), *_copied(section.source, folder)]


def _drawn(section: Section, folder: Path) -> list[Html]:
    draw = {"selfplay": _draw_run, "profile": _draw_stages}.get(section.source.kind)
    if draw is None:
        return []
    name = f"{OWN_PREFIX}{section.source.file_name}.png"
    try:
        caption = draw(section, folder / name)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        section.source.problems.append(f"no chart: the figures cannot be drawn ({error})")
        return []
    if not caption:
        return [tag("p", "No chart: there are fewer than two intervals to draw.", class_="faint")]
    return [picture(name, caption)]


def _draw_run(section: Section, path: Path) -> str:
    from grove.report.charts import draw_run  # matplotlib takes half a second to import

    return draw_run(section.source.rows("metrics.jsonl"), path)


def _draw_stages(section: Section, path: Path) -> str:
    from grove.report.charts import draw_stages

    return draw_stages(section.source.table("profile.json"), path, section.finding)


def _copied(source: Source, folder: Path) -> list[Html]:
    """Return the folder's own pictures, copied unless they lie beside the page already; flame graphs as links."""
    out = []
    for path in source.pictures:
        name = path.name
        if source.path != folder.resolve():
            name = f"{OWN_PREFIX}{source.file_name}.{path.name}"  # the dot: no picture of ours has one there
            shutil.copyfile(path, folder / name)
        out.append(
            _linked(name, path.name) if path.suffix == ".svg" else picture(name, f"chart of {source.name}", path.name)
        )
    return out


def _linked(name: str, text: str) -> Html:
    return tag("p", tag("a", text, href=quote(name)), ": flame graph, to be opened by itself")


# -- the page ----------------------------------------------------------------------------------------------------------


def _body(made: Sequence[tuple[Section, list[Html]]]) -> Html:
    sections = [section for section, _ in made]
    here = machine.provenance()
    stamp = datetime.now().astimezone().isoformat(timespec="minutes")
    commit = f", commit {here['commit'][:12]}" if here["commit"] else ""
    parts: list[Part] = [
        tag("h1", _title([section.source for section in sections])),
        tag("p", f"written {stamp} by grove {here['version']}{commit}", class_="faint"),
    ]
    if len(made) > 1:
        parts.append(_overview(sections))
    parts += [_section(number, section, pictures) for number, (section, pictures) in enumerate(made)]
    return join(parts)


def _overview(sections: Sequence[Section]) -> Html:
    rows: list[list[Part]] = [
        [
            tag("a", section.source.name, href=f"#s{number}"),
            _KIND_NAMES[section.source.kind],
            section.finding,
            str(len(section.source.problems) or "-"),
        ]
        for number, section in enumerate(sections)
    ]
    return table(("folder", "kind", "finding", "problems"), rows, kind="words")


def _section(number: int, section: Section, pictures: Sequence[Html]) -> Html:
    source = section.source
    return join(
        (
            tag("h2", source.name, tag("small", _KIND_NAMES[source.kind]), id=f"s{number}"),
            tag("p", str(source.path), class_="faint"),
            tag("p", section.finding, class_="finding"),
            listed("problems", "Problems", source.problems),
            listed("advice", "Recommendations", section.advice),
            *pictures,
            *section.tables,
            provenance(section),
        )
    )
