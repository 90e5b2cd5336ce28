"""`grove report`: what a page says of real runs, of damaged and foreign folders, and that nothing in them is markup."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import pytest
from matplotlib.image import imread

from grove.cli import main
from grove.commands.report import Report, report
from grove.report.advice import compare_finding, points_advice, selfplay_advice, sweep_advice
from grove.report.charts import draw_run
from grove.report.html import escape, shown, table
from grove.report.read import read_sources
from grove.report.sections import section_of
from tests.conftest import Grove

MLP = ("--network", "mlp:layers=1,width=8", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
MACHINE = {"cpu": "A <fast> chip", "cores": 2, "memory_bytes": 4 << 30, "python": "3.11.7", "numba": "0.68.1"}
HEAD = {"version": "0.1.0", "commit": "c0ffee" * 6, "dirty": True, "machine": MACHINE, "command": ["grove", "bench"]}
HOSTILE = "<script>alert('x')</script>\" onerror=\"x"
COMPARED = {
    "mode": "server-thread", "variant": None, "unit": "games", "evaluations_per_second": 123456.7,
    "simulations_per_second": 140000.0, "games_per_minute": 1234.5, "peak_share": 0.91, "ratio_to_direct": 12.34,
    "ratio_low": 11.0, "ratio_high": 13.0, "cpu_us_per_evaluation": 9.9, "mean_batch_rows": 400.0, "fill": 0.95,
    "distinct_share": 1.0, "mean_visit_entropy": 1.5, "rounds": 6, "rounds_dropped": 0, "note": None,
    "not_measured": None, "something_new": {"inner": 7654.0},
}  # fmt: skip


class Page(HTMLParser):
    """A page's text, its references and its tags; refuses tags that are not closed in order."""

    VOID: ClassVar[set[str]] = {"meta", "img", "br", "link"}

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.text, self.tags, self.references = "", [], []  # type: tuple[str, list[str], list[str]]
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self._open[-1:] != ["style"] else ""

    def works_offline(self) -> None:
        """Check that there is no script and that every reference is a file beside the page or a place in it."""
        assert not {"script", "link", "iframe"} & set(self.tags)
        content = self.path.read_text(encoding="utf-8")
        assert "@import" not in content
        assert "url(" not in content
        for reference in self.references:
            assert reference.startswith("#") or (self.path.parent / unquote(reference)).is_file(), reference


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


def test_a_real_run_is_reported_by_the_command(played: Path, grove: Grove) -> None:
    said = grove.play("report", played)
    assert said.strip() == str(played / "report.html")
    page = Page(played / "report.html")
    page.works_offline()
    summary, head = (json.loads((played / name).read_text()) for name in ("summary.json", "run.json"))
    for text in (head["machine"]["cpu"], head["commit"], "games/min", "evaluations/s", "mlp:layers=1,width=8"):
        assert text in page.text
    assert summary["model_version"] in page.text
    assert "Problems" not in page.text
    assert "Recommendations" in page.text
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
        "not recorded",
    ):
        assert words in page.text
    assert len(read_sources([str(run)])[0].problems) == 4
    assert "games/min" in page.text, "the last interval stands for the summary"


def test_many_folders_make_one_page_with_pictures_beside_it(played: Path, tmp_path: Path) -> None:
    picture = next(iter(Path(__file__).parents[2].glob("docs/results/compare.png")))
    one = write(tmp_path / "a" / "cmp", results_json=[COMPARED], run_json=HEAD)
    two = write(tmp_path / "b" / "cmp", results_json=[COMPARED, {"mode": "direct", "not_measured": "no compiler"}])
    for folder in (one, two):
        shutil.copyfile(picture, folder / "chart.png")
    page = written(played, one, two, out=tmp_path / "page" / "all.html")
    page.works_offline()
    assert sorted(path.name for path in (tmp_path / "page").glob("report-cmp*")) == [
        "report-cmp-2.chart.png", "report-cmp.chart.png",
    ]  # fmt: skip
    for text in ("first run", "cmp-2", "server-thread is fastest: 123,457 evaluations/s", "12.34x (11.00..13.00)"):
        assert text in page.text
    assert "not measured: direct: no compiler" in page.text
    assert "run.json is missing" in page.text
    assert "something_new" in page.text, "what is not known is shown as it is"
    assert "A <fast> chip" in page.text
    assert "with local changes" in page.text
    assert "Play with --pool thread" in page.text


def test_limits_sweeps_and_profiles_are_read_as_they_are(tmp_path: Path) -> None:
    knob = {"name": "--workers", "change": "--workers 4 (now 2)", "expected": 5000.0, "model": "twice the workers"}
    verdict = {"kind": "starved", "text": "starved: 2 of 2 workers wait", "knob": knob, "gain": 1.8}
    limit = write(
        tmp_path / "limit", limit_json={**HEAD, "verdict": verdict, "bounds": [{"name": "wire", "rate": 9e5}]}
    )
    points = [{"mode": "server-thread", "workers": n, "lanes": 2, "evaluations_per_second": 1e4 * n} for n in (1, 2)]
    points.append({"mode": "server-thread", "workers": 64, "error": "no memory", "evaluations_per_second": None})
    sweep = write(tmp_path / "sweep", results_json=points, run_json=HEAD, results_csv="mode,workers\n")
    other = write(tmp_path / "other", peers_json={"mctx": {"simulations_per_second": 26000.5}, "rows": [{"a": 1}]})
    stages = [{"stage": name, "share": 0.5, "seconds": 1.0, "calls": 3, "us_per_lap": 2.0,
               "us_per_row": None} for name in ("ask", "wait")]  # fmt: skip
    part = {"stages": stages, "sum_seconds": 2.0, "wall_seconds": 2.0, "unaccounted_share": 0.0, "cpu_seconds": 2.0}
    profile = write(tmp_path / "prof", profile_json={**HEAD, "workers": part, "server": {"threads": {"lane-0": part}}})
    page = written(limit, sweep, other, profile, out=tmp_path / "page.html")
    page.works_offline()
    for text in (
        "starved: 2 of 2 workers wait",
        "Change next: --workers 4 (now 2), expected 5,000 evaluations/s, 1.80 times the present rate",
        "20,000 evaluations/s at the fastest of 3 points: workers 2, lanes 2",
        "The fastest point: --pool thread --workers 2 --lanes 2.",
        "no memory",
        "mctx.simulations_per_second",
        "26,000",
        "Server, thread lane-0",
        "Sum: 2 s of 2 s by the clock, +0.0% not accounted for; 2 s of a processor.",
    ):
        assert text in page.text
    assert imread(tmp_path / "report-prof.png").shape[1] == 1500


def test_a_sweep_of_which_only_the_csv_is_left_reads_alike(tmp_path: Path) -> None:
    heads = "mode,workers,success,evaluations_per_second,peak_share,note"
    text = f"{heads}\nlocal,1,true,12345.678,0.98765,busy\nlocal,2,false,,,\n"
    page = written(write(tmp_path / "sweep", results_csv=text))
    for words in ("12,346 evaluations/s, 99 % of the peak at the fastest of 2 points: workers 1", "workers 1: busy."):
        assert words in page.text
    assert "12345.678" not in page.text


def peers_rows() -> list[dict[str, Any]]:
    """What `grove bench peers` writes of two players, a peer and a batching server."""
    against = {"open_spiel": {"median": 12.34, "low": 11.0, "high": 13.0}}
    player = dict.fromkeys(("games_per_minute", "mean_game_moves", "simulations_per_move", "mean_visit_entropy"))
    player |= {"kind": "player", "simulations_per_second": 34567.0, "simulations_low": 30000.0, "rounds": 6,
               "simulations_high": 36000.0, "evaluations_per_second": 33000.0, "cpu_us_per_evaluation": None,
               "against": against, "not_measured": None, "rounds_dropped": 1, "note": None}  # fmt: skip
    served = {"kind": "batcher", "message_rows": 16, "evaluations_per_second": 8765.0, "evaluations_low": 8e3,
              "evaluations_high": 9e3, "requests_per_second": 500.0, "cpu_us_per_evaluation": 9.0,
              "not_measured": None, "note": None}  # fmt: skip
    return [
        *({**player, "mode": mode} for mode in ("server-thread", "server-thread-cache")),
        {**player, "mode": "open_spiel", "against": {}},
        {**served, "mode": "grove", "against": {"mosec": against["open_spiel"]}},
        {**served, "mode": "mosec", "against": {}},
        {"mode": "mctx", "not_measured": "mctx is not installed"},
    ]


def test_peers_are_two_tables_and_no_comparison_of_modes(tmp_path: Path) -> None:
    head = {**HEAD, "others_cpu": 1.4}
    page = written(write(tmp_path / "peers", results_json=peers_rows(), run_json=head, chart_png=""))
    page.works_offline()
    for text in (
        "Grove makes 12 (12 with its cache) times OpenSpiel's Python MCTS, in simulations a second",
        "Players",
        "Grove, search threads",
        "34,567",
        "12.34x (11.00..13.00)",
        "Batching servers",
        "8,765",
        "not measured: mctx: mctx is not installed",
        "Beware: other programs used 1.4 of 2 cores meanwhile",
    ):
        assert text in page.text
    assert "Play with" not in page.text
    assert "evaluations of a decision" not in page.text


def test_a_soak_says_whether_the_run_was_sound(tmp_path: Path) -> None:
    fault = {"does": "kill -9 of a worker", "injected": 9, "recovered": 8, "median_s": 0.75, "skipped": ""}
    kept = {
        "evaluations_kills": {"shares": [0.8], "mean": 0.8, "low": 0.71, "high": 0.89},
        "games_kills": {"shares": []},
    }
    content = {
        **HEAD,
        "sound": False,
        "faults": [fault, {**fault, "injected": 0, "recovered": 0, "skipped": "no tmpfs"}],
    }
    content |= {"kept": kept, "check": {"games": 50, "lost": [7], "duplicates": []}}
    page = written(write(tmp_path / "soak", soak_json=content, beside_json={"found": 4321.5}))
    page.works_offline()
    assert "beside.json" in page.text
    assert "4,322" in page.text, "what lies beside is shown as it is"
    for text in (
        "NOT SOUND: 8 of 9 faults recovered; 50 games, 1 lost, 0 twice; 80 % of the evaluations/s kept under kills",
        "[71 %, 89 %]",
        "kill -9 of a worker",
        "not tried: kill -9 of a worker: no tmpfs",
        "lost: 7",
        "evaluations_kills",
    ):
        assert text in page.text


def test_a_profile_says_who_holds_the_interpreter(tmp_path: Path) -> None:
    interpreter = {"io_thread": "zmq-channel", "io_thread_cpu_share": 0.2, "io_thread_gil_share": 0.15}
    interpreter |= {"search_gil_share": None, "gil_by_thread": {"server": {"zmq-channel": 0.15}}}
    content = {
        **HEAD,
        "load": {"pool": "process"},
        "interpreter": interpreter,
        "timers": {"us_per_call": 1.0, "share": 0.01},
        "passes": {"stages": {"evaluations_per_second": 9000.0}},
        "py_spy": {"fault": "", "gil_faults": {}},
        "machine_beside": {"probe_moved": 0.0, "others_cpu": 1.0},
    }
    text = written(write(tmp_path / "prof", profile_json=content)).text
    assert "I/O thread zmq-channel: 20.0% of a core; held the interpreter lock 15.0% of the time" in text
    assert "evaluations/s in each pass: stages 9,000" in text
    assert "Beware: other programs used 1.0 of 2 cores meanwhile" in text


def test_no_picture_is_taken_for_another(tmp_path: Path) -> None:
    """Folders of the same name, of names that are the same in file names, and one that a number would make the same."""
    picture = Path(__file__).parents[2] / "docs/results/compare.png"
    folders = [write(tmp_path / name, peers_json={"a": 1}) for name in ("1/x", "2/x", "3/x-2", "4/x y", "5/x-y")]
    for folder in folders:
        shutil.copyfile(picture, folder / "2.png")
    (folders[0] / "folder.png").mkdir()
    page = written(*folders, out=tmp_path / "page" / "all.html")
    page.works_offline()
    assert len({name for name in page.references if name.endswith(".png")}) == len(folders)
    assert [source.name for source in read_sources([str(folder) for folder in folders])] == [
        "x", "x-2", "x-2-2", "x y", "x-y-2",
    ]  # fmt: skip
    assert "folder.png cannot be read: Is a directory" in page.text


def test_what_speaks_against_trust_is_said(tmp_path: Path) -> None:
    plan = {"plan_days": 80.2, "plan_days_low": 57.9, "plan_days_high": None}
    compared = write(tmp_path / "cmp", results_json=[{**COMPARED, **plan}], run_json={**HEAD, "others_cpu": 0.9})
    measured = {"cores": 2, "whole_rate": 1e4, "whole_cpu": 5e-5, "idle_cores": 0.2}
    limit = write(tmp_path / "limit", limit_json={**HEAD, "verdict": "x", "measured": measured, "probe_moved": 0.3})
    note = "the burn probe moved by 30%: the machine was busy, visit it again"
    points = [
        {
            "mode": "local",
            "workers": n,
            "evaluations_per_second": rate,
            "peak_share": share,
            "note": note if n else None,
        }
        for n, rate, share in ((0, 900.0, 0.9), (1, 1000.0, 0.5), (2, 800.0, 0.6))
    ]
    sweep = write(tmp_path / "sweep", results_json=points, run_json=HEAD, results_csv="mode,workers\n")
    page = written(compared, limit, sweep, out=tmp_path / "page.html")
    for text in (
        "80.2 (57.9 or more)",
        "Beware: other programs used 0.9 of 2 cores meanwhile",
        "Beware: other programs used 1.3 of 2 cores while the whole played.",
        "Beware: the burn probe moved by 30 %",
        f"workers 1 and 1 more: {note}.",
        "900 evaluations/s, 90 % of the peak at the fastest of 3 points: workers 0",
    ):
        assert text in page.text


def test_nothing_in_a_folder_becomes_markup(tmp_path: Path) -> None:
    row = {**COMPARED, "mode": HOSTILE, HOSTILE: HOSTILE}
    head = {**HEAD, "commit": HOSTILE, "settings": {HOSTILE: HOSTILE}, "command": [HOSTILE]}
    folder = write(tmp_path / "<b>x</b>&amp;", results_json=[row], run_json=head)
    (folder / "chart.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "<img src=x>.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    page = written(folder)
    page.works_offline()
    assert page.text.count(HOSTILE) >= 5
    assert "<b>x</b>&amp;" in page.text


@pytest.mark.parametrize(
    "content",
    [
        [{**COMPARED, "peak_share": "high"}],
        [{"mode": 3, "evaluations_per_second": "x"}],
        [1, 2, 3],
        {"mode": "direct"},
        [],
        [{**COMPARED, "evaluations_per_second": float("nan")}],
    ],
)
def test_strange_figures_are_shown_and_never_end_the_report(content: Any, tmp_path: Path) -> None:
    page = written(write(tmp_path / "cmp", results_json=content, run_json=HEAD))
    assert "A <fast> chip" in page.text


def test_damaged_files_of_every_kind_are_named(tmp_path: Path) -> None:
    names = ("limit.json", "profile.json", "results.json", "sweep.json", "summary.json")
    folders = [write(tmp_path / name, **{name.replace(".", "_"): "{"}) for name in names]
    (folders[0] / "limit.png").write_text("no picture")
    deep = write(tmp_path / "deep", peers_json="[" * 100_000)
    page = written(*folders, deep, out=tmp_path / "page.html")
    for name in (*names, "peers.json"):
        assert f"{name} is damaged: " in page.text
    assert "limit.png is damaged: it is no PNG picture" in page.text
    page.works_offline()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no folder is given; name run folders"),
        (("nowhere",), "it cannot be read (No such file or directory); give a folder of a run"),
        (("empty",), "it holds no run and nothing that was measured"),
        (("cmp", "--out", "mine.html"), "it is there and no page of this command; give another name"),
        (("cmp", "--out", "mine.html/x"), "cannot be written"),
        (("cmp", "--colour", "red"), "see `grove report --help`"),
    ],
)
def test_bad_input_ends_with_one_line(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "cmp", results_json=[COMPARED])
    (tmp_path / "mine.html").write_text("my own page")
    with pytest.raises(SystemExit) as stop:
        main(["report", *arguments])
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert words in said
    assert (tmp_path / "mine.html").read_text() == "my own page"


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_the_chart_goes_on_where_a_resumed_run_began_anew(tmp_path: Path) -> None:
    rows = [
        {"seconds": s, "unit": "games", "games_per_minute": 60.0, "evaluations_per_second": 5.0} for s in (1, 6, 2, 7)
    ]
    assert draw_run(rows, tmp_path / "a.png") == "60 games/min, steady"
    assert imread(tmp_path / "a.png").shape[1] == 1500
    rows[0]["games_per_minute"] = rows[1]["games_per_minute"] = 20.0
    assert draw_run(rows, tmp_path / "b.png").endswith("up from 20 in the first half to 60 in the second")
    rows[0]["interval_s"] = 4.0  # counts as much as four others
    assert draw_run(rows, tmp_path / "b.png").startswith("31.4 games/min, up from 20")
    rows[1].pop("evaluations_per_second")  # a gap, no zero
    rows[3]["games_per_minute"] = None
    assert draw_run(rows, tmp_path / "b.png").endswith("up from 20 in the first half to 60 in the second")
    assert (
        draw_run([{"seconds": 1}, {"seconds": 6}], tmp_path / "d.png") == "games/min, known in a part of the run only"
    )
    assert draw_run(rows[:1], tmp_path / "c.png") == ""
    assert not (tmp_path / "c.png").exists()


def test_values_are_shown_in_few_digits() -> None:
    values = (None, True, 3, 12345, 0.123456, 1234.5, float("nan"), [1, 2.5], {"a": 1}, "x")
    assert [shown(value) for value in values] == [
        "-",
        "yes",
        "3",
        "12,345",
        "0.1235",
        "1,234",
        "-",
        "1, 2.5",
        "a 1",
        "x",
    ]
    assert shown(123456, "network_seed") == "123456"


def test_tables_escape_cells_and_mark_the_best() -> None:
    made = table(("a", "b"), [["1", "<2>"], ["3", "4"]], best=1)
    assert re.search(r'<tr class="best"><td>3</td>\s*<td>4</td></tr>', made)
    assert "&lt;2&gt;" in made
    assert escape("a\x00b") == "a\ufffdb"


def test_advice_rests_on_figures(tmp_path: Path) -> None:
    summary = {
        "games": 8, "games_left": 2, "evaluations_per_second": 9.0, "seconds": 100.0, "lane_idle": [0.6, 0.4],
        "mean_batch_rows": 20.0, "fill": 0.5, "dispatch_reasons": {"delay": 5, "full": 5}, "games_per_worker": 64,
        "problems": ["worker 1 died"],
    }  # fmt: skip
    made = section_of(read_sources([str(write(tmp_path / "run", summary_json=summary))])[0])
    said = "\n".join(made.advice)
    for words in (
        "Left to play: 2 games;",
        "lanes idle 50 % of the time with 20 rows",
        "--games-per-worker 128",
        "50 % of the rows",
    ):
        assert words in said
    assert "50 % of the batches left by the time-out" in said
    assert "during the run: worker 1 died" in made.source.problems
    assert "once" in "".join(selfplay_advice(summary | {"workers_restarted": 1}, {}))
    assert "1 game ended at the cap" in "".join(selfplay_advice(summary | {"timeouts": 1}, {}))
    busy = {**summary, "lane_idle": [0.02], "fill": 0.99, "dispatch_reasons": {}, "games_left": 0}
    made = section_of(read_sources([str(write(tmp_path / "busy", summary_json=busy))])[0])
    assert made.advice[0].startswith("The lanes are busy 98 % of the time: the network binds.")


def test_notes_that_differ_in_numbers_are_one() -> None:
    notes = [f"the burn probe moved by {n}%: the machine was busy; 2 workers were started again" for n in (9, 35, 12)]
    assert points_advice([(f"point {n}", {"note": note}) for n, note in enumerate(notes)]) == [
        "All points: the burn probe moved by 9 to 35%: the machine was busy.",
        "All points: 2 workers were started again.",
    ]


def test_findings_of_modes_that_runs_do_not_have() -> None:
    row = {**COMPARED, "mode": "drain", "workers": 4}
    assert "under drain, another program's batching rule" in sweep_advice([row], 0)[0]
    direct = {"mode": "direct", "evaluations_per_second": 10.0, "ratio_to_direct": 1.0}
    assert compare_finding([direct]) == "direct is fastest: 10 evaluations/s"
