"""Links of the documents lead somewhere, and no document names a file of the product that is not there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from grove.run.settings import SelfPlay, Serve, Work

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
OF_TODAY = [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md") and page.parent.name != "lab"]
"""Pages that describe what there is now; the others are dated, and may name what is gone."""
FOLDERS = ["bench", "common", "examples", "game", "grove", "inference_server", "mcts", "records", "tests", "workers"]
FILES = [f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]


def anchors(page: Path) -> set[str]:
    """Return the anchors that the headings of a page make."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", OF_TODAY, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    own = re.findall(r"<!-- file: (\S+) -->", text)  # what a tutorial lets its reader write
    modules = [f"{name.replace('.', '/')}.py" for name in re.findall(r"-m grove\.([\w.]+)", text)]
    for name in {*re.findall(r"(?<![\w/.])[a-z0-9_/]+\.py\b", text), *modules}:
        assert name in own or name.startswith("my_") or any(file.endswith(f"/{name}") for file in FILES), name


def flags(kind: Any) -> set[str]:
    """Return the flags of a command's settings."""
    found: set[str] = set()
    for item in dataclasses.fields(kind):
        plain = item.default_factory is dataclasses.MISSING
        found |= {f"--{item.name.replace('_', '-')}"} if plain else flags(item.default_factory)
    return found


def test_every_setting_is_explained() -> None:
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    known = flags(SelfPlay) | flags(Serve) | flags(Work)
    assert known - set(re.findall(r"`(--[a-z-]+)`", text)) == set()
    assert set(re.findall(r"^\| `(--[a-z-]+)`", text, re.M)) - known == set()
