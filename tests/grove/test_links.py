"""Links of the documents lead somewhere, and no document names a file of the product that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
    for name in {*re.findall(r"(?<![\w/])[a-z0-9_/]+\.py\b", text), *modules}:
        assert name in own or any(file.endswith(f"/{name}") for file in FILES), name
