"""`grove report`: what a page says of real runs, of damaged and foreign folders, and that nothing in them is markup."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from matplotlib.image import imread

from grove.bench.report.charts import draw_run
from grove.bench.report.page import shown
from grove.commands.report import Report, report
from tests.support.command import Grove

MLP = ("--network", "mlp:layers=1,width=8", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
MACHINE = {"cpu": "A <fast> chip", "cores": 2, "memory_bytes": 4 << 30, "python": "3.11.7", "numba": "0.68.1"}
HEAD = {"version": "0.1.0", "commit": "c0ffee" * 6, "dirty": True, "machine": MACHINE, "command": ["grove", "bench"]}
HOSTILE = "<script>alert('x')</script>\" onerror=\"x"
COMPARED = {
    "mode": "server-thread", "evaluations_per_second": 123456.7, "simulations_per_second": 140000.0,
    "games_per_minute": 1234.5, "ratio_to_direct": 12.34, "mean_batch_rows": 400.0, "fill": 0.95, "rounds": 6,
    "not_measured": None, "something_new": {"inner": 7654.0},
}  # fmt: skip


class Page(HTMLParser):
    """A page's text, its references and its tags; refuses tags that are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.references = "", [], []  # type: tuple[str, list[str], list[str]]
        self._open: list[str] = []
        content = path.read_text(encoding="utf-8")
        self.feed(content)
        assert not self._open
        # It works offline: no script, and every reference is a file beside the page or a place in it.
        assert not {"script", "link", "iframe"} & set(self.tags)
        assert not [word for word in ("@import", "url(") if word in content]
        for reference in self.references:
            assert reference.startswith("#") or (path.parent / unquote(reference)).is_file(), reference

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self._open[-1:] != ["style"] else ""


def write(folder: Path, **files: Any) -> Path:
    """Write files named NAME_SUFFIX into a folder: JSON, unless given as text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / ".".join(name.rsplit("_", 1))).write_text(text)
    return folder


def written(*folders: Path, out: Path | None = None) -> Page:
    """Write a report in this process and return its page."""
    path = out or folders[0] / "report.html"
    assert report(Report(folders=tuple(map(str, folders)), out=str(path))) == 0
    return Page(path)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    Grove(folder).play("selfplay", *MLP, "--games", "24", "--simulations", "8", "--out", folder / "first run")
    return folder / "first run"


@pytest.fixture
def picture() -> Path:
    return next(Path(__file__).parents[2].glob("docs/results/**/*.png"))


def test_a_real_run_is_reported_by_the_command(played: Path, grove: Grove) -> None:
    said = grove.play("report", played)
    assert said.strip() == str(played / "report.html")
    page = Page(played / "report.html")
    summary, head = (json.loads((played / name).read_text()) for name in ("summary.json", "run.json"))
    for text in (head["machine"]["cpu"], head["commit"], "24 games, ", "games/min", "mlp:layers=1,width=8"):
        assert text in page.text
    assert summary["model_version"] in page.text
    assert "Problems" not in page.text
    assert grove.play("report", played).strip() == said.strip(), "its own page is written anew"


def test_a_run_with_damage_names_every_file(played: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(played, run)
    (run / "summary.json").unlink()
    (run / "run.json").write_text('{"machine": ')
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"seconds": 3\nnonsense\n')
    log = next((run / "games").glob("*.jsonl"))
    log.write_bytes(log.read_bytes()[:-40])
    page = written(run)
    for words in (
        "summary.json is missing: the run goes on or was killed",
        "run.json is damaged: ",
        "metrics.jsonl is damaged: 2 lines",
        f"games/{log.name}:",
        "the last interval",
    ):
        assert words in page.text


def test_many_folders_make_one_page_with_pictures_beside_it(played: Path, picture: Path, tmp_path: Path) -> None:
    """Also of the same name, of names that are the same in file names, and one that a number would make the same."""
    folders = [
        write(tmp_path / name, results_json=[COMPARED, {"mode": "direct", "not_measured": "no compiler"}])
        for name in ("1/x", "2/x", "3/x-2", "4/x y", "5/x-y")
    ]
    for folder in folders:
        shutil.copyfile(picture, folder / "2.png")
    write(folders[0], run_json={**HEAD, "others_cpu": 1.9})
    (folders[0] / "folder.png").mkdir()
    page = written(played, *folders, out=tmp_path / "page" / "all.html")
    names = {name for name in page.references if name.endswith(".png")}
    assert len(names) == len(folders) + (tmp_path / "page" / "report-first-run.png").exists()
    for text in (
        *("x-2-2", "x y", "x-y-2", "123,457 evaluations/s at best: mode server-thread", "12.34", "95 %"),
        *("not measured: direct: no compiler", "run.json is missing", "A <fast> chip", "with local changes"),
        *("something_new", "inner 7,654", "folder.png cannot be read", "other programs used 1.9 of 2 cores"),
    ):
        assert text in page.text


def test_measurements_of_every_kind_say_what_was_found(tmp_path: Path) -> None:
    """What is not known by name is shown as it is; one golden finding a kind."""
    points = [{"mode": "server-thread", "workers": n, "evaluations_per_second": 1e4 * n} for n in (1, 2)]
    points.append({"mode": "server-thread", "workers": 64, "failure": "no memory", "evaluations_per_second": None})
    fault = {"does": "kill -9 of a worker", "injected": 9, "recovered": 8, "skipped": ""}
    soak = {"sound": False, "faults": [fault, {**fault, "skipped": "no tmpfs"}], "check": {"games": 50, "lost": [7]}}
    verdict = {"kind": "starved", "text": "starved: 2 of 2 workers wait"}
    page = written(
        write(tmp_path / "limit", limit_json={**HEAD, "verdict": verdict, "peaks": [{"name": "wire", "rate": 9e5}]}),
        write(tmp_path / "sweep", results_json=points, run_json=HEAD, results_csv="mode,workers\n"),
        write(tmp_path / "half", results_csv="mode,workers,evaluations_per_second\nlocal,1,12345.678\nlocal,2,\n"),
        write(tmp_path / "tune", results_json={"finding": "1.4 times the default"}, trials_csv="number\n1\n"),
        write(tmp_path / "soak", soak_json={**HEAD, **soak}),
        write(tmp_path / "other", own_json={"mctx": {"simulations_per_second": 26000.5}, "rows": [{"a": 1}]}),
        out=tmp_path / "page.html",
    )
    for text in (
        "starved: 2 of 2 workers wait",
        "900,000",
        "20,000 evaluations/s at best: mode server-thread, workers 2",
        "not measured: server-thread, 64: no memory",
        "12,346 evaluations/s at best: mode local, workers 1",
        "1.4 times the default",
        "NOT SOUND: 50 games, 1 lost, 0 twice",
        "not tried: kill -9 of a worker: no tmpfs",
        "mctx.simulations_per_second",
        "26,000",
    ):
        assert text in page.text


def test_nothing_in_a_folder_becomes_markup(tmp_path: Path) -> None:
    row = {**COMPARED, "mode": HOSTILE, HOSTILE: HOSTILE}
    head = {**HEAD, "commit": HOSTILE, "settings": {HOSTILE: HOSTILE}, "command": [HOSTILE]}
    folder = write(tmp_path / "<b>x</b>&amp;", results_json=[row], run_json=head)
    (folder / "<img src=x>.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    page = written(folder)
    assert page.text.count(HOSTILE) >= 5
    assert "<b>x</b>&amp;" in page.text


@pytest.mark.parametrize(
    "content",
    [
        [{**COMPARED, "fill": "high"}],
        [{"mode": 3, "evaluations_per_second": "x"}],
        [1, 2, 3],
        {"mode": "direct", "verdict": [1]},
        [],
        [{**COMPARED, "evaluations_per_second": float("nan")}],
    ],
)
def test_strange_figures_are_shown_and_never_end_the_report(content: Any, tmp_path: Path) -> None:
    assert "A <fast> chip" in written(write(tmp_path / "cmp", results_json=content, run_json=HEAD)).text


def test_damaged_files_of_every_kind_are_named(tmp_path: Path) -> None:
    names = ("limit.json", "profile.json", "results.json", "soak.json", "summary.json")
    folders = [write(tmp_path / name, **{name.replace(".", "_"): "{"}) for name in names]
    (folders[0] / "limit.png").write_text("no picture")
    deep = write(tmp_path / "deep", own_json="[" * 100_000)
    page = written(*folders, deep, out=tmp_path / "page.html")
    for name in (*names, "own.json"):
        assert f"{name} is damaged: " in page.text
    assert "limit.png is damaged: it is no PNG picture" in page.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no folder is given; name run folders"),
        (("nowhere",), "it cannot be read (No such file or directory); give a folder of a run"),
        (("empty",), "it holds no run and nothing that was measured"),
        (("cmp", "--out", "mine.html"), "it is there and no page of this command; give another name"),
        (("cmp", "--out", "mine.html/x"), "cannot be written"),
    ],
)
def test_bad_input_ends_with_one_line(grove: Grove, arguments: tuple[str, ...], words: str) -> None:
    (grove.folder / "empty").mkdir()
    write(grove.folder / "cmp", results_json=[COMPARED])
    (grove.folder / "mine.html").write_text("my own page")
    assert words in grove.refused("report", *arguments)
    assert (grove.folder / "mine.html").read_text() == "my own page"


def test_the_chart_goes_on_where_a_resumed_run_began_anew(tmp_path: Path) -> None:
    rows = [
        {"seconds": s, "unit": "games", "games_per_minute": 60.0, "evaluations_per_second": 5.0} for s in (1, 6, 2, 7)
    ]
    assert draw_run(rows, tmp_path / "a.png") == "60 games/min, steady"
    assert imread(tmp_path / "a.png").shape[1] == 1500
    rows[0]["games_per_minute"] = rows[1]["games_per_minute"] = 20.0
    assert draw_run(rows, tmp_path / "b.png").endswith("up from 20 in the first half to 60 in the second")
    rows[1].pop("evaluations_per_second")  # a gap, no zero
    rows[3]["games_per_minute"] = None
    assert draw_run(rows, tmp_path / "b.png").endswith("up from 20 in the first half to 60 in the second")
    assert draw_run(rows[:1], tmp_path / "c.png") == ""
    assert not (tmp_path / "c.png").exists()


def test_values_are_shown_in_few_digits() -> None:
    values = (None, True, 3, 12345, 0.123456, 1234.5, float("nan"), [1, 2.5], {"a": 1}, "x")
    texts = ["-", "yes", "3", "12,345", "0.1235", "1,234", "-", "1, 2.5", "a 1", "x"]
    assert [shown(value) for value in values] == texts
    assert shown(123456, "network_seed") == "123456"
