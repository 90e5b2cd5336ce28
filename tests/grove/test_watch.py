"""Watching a run from its folder: the lines it writes, the view in a terminal, the page and what guards it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from grove.common import usage
from grove.common.errors import SettingError
from grove.common.usage import GpuUse, MachineUse, ProcessUse
from grove.live.reader import MOST_POINTS, SILENT_S, RunReader
from grove.live.web import PageServer, serve_page
from grove.run.folder import RunFolder
from tests.support.command import ROOT, Grove

MLP = ("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
PLAY = ("selfplay", "--game", "hex:size=5", "--workers", 2, "--games-per-worker", 8, "--simulations", 16, *MLP)
GROUPS = {"server", "workers", "supervisor"}
DOCUMENTED = (ROOT / "docs" / "reference" / "metrics.md").read_text()
CHARTS = (
    *("games", "evaluations", "batches", "fill", "reasons", "queue", "compute", "cache", "device", "cpu", "memory"),
    *("workers", "lost"),
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Eventually = Callable[[Callable[[], Any]], Any]


def metrics(seconds: float, **changes: Any) -> dict[str, Any]:
    """Return a line of metrics as a run with a server and two workers writes it."""
    return {
        **{"seconds": seconds, "interval_s": 5.0, "games": int(seconds), "games_wanted": 100, "unit": "games"},
        **{"games_per_minute": 60.0, "evaluations_per_second": 5e4, "simulations_per_second": 6e4},
        **{"cache_hit_rate": 0.25, "mean_batch_rows": 200.0, "fill": 0.9},
        **{"dispatch_reasons": {"full": 8, "all_blocked": 2, "delay": 0, "shutdown": 0}, "lane_idle": [0.1]},
        **{"queue_ms": 0.5, "compute_ms": 3.0, "queue_ms_p90": 1.0, "queue_ms_p99": 2.0, "compute_ms_p90": 4.0},
        **{"compute_ms_p99": 5.0, "batch_sizes": [0, 0, 0, 0, 0, 0, 1, 3, 6], "gpus": None},
        **{"evaluations_per_second_by_worker": [2e4, 3e4], "games_per_minute_by_worker": [20, 40]},
        **{"workers_alive": 2, "workers_lost": 1, "workers_restarted": 1, "server_restarted": 1},
        "machine_cores": 1.95,
        "cpu_cores": {"server": 1.2, "workers": 0.7, "supervisor": None},
        "memory_mb": {"server": 800.0, "workers": 300.0, "supervisor": 100.0},
        **changes,
    }


def open_run(path: Path, **changes: Any) -> RunFolder:
    settings = {"game": "hex:size=5", "games": 100, "simulations": 16} | changes
    return RunFolder.open_or_create(path, settings, command=["grove", "selfplay"])


def texts(reader: RunReader, after: int = 0) -> list[dict[str, Any]]:
    return [json.loads(point) for point in reader.points(after)[1]]


# -- the folder ------------------------------------------------------------------------------------------------------


def test_how_a_run_stands(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with open_run(path) as run:
        reader = RunReader(path)
        assert reader.refresh().kind == "starting"
        run.describe({"device": "cpu", "unit": "games"})
        run.write_metrics(metrics(5))
        assert reader.refresh().kind == "playing"
        assert (reader.chosen["device"], reader.total, reader.last["games"]) == ("cpu", 100, 5)
        run.write_summary({"games": 60, "games_left": 40})
    status = reader.refresh()
    assert (status.kind, status.ended) == ("stopped", True)
    assert "40 left" in status.text
    assert f"--out {path}" in status.text
    with open_run(path) as run:
        assert reader.refresh().kind in ("starting", "playing")  # the former figures may bear the second of this start
        run.write_summary({"games": 100, "games_left": 0})
    assert reader.refresh().kind == "finished"
    shutil.rmtree(path)
    assert "removed" in reader.refresh().text


def test_a_run_that_lives_but_writes_nothing_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = float(round(time.time()) + 9)  # after the start; starts and durations are told in whole seconds
    monkeypatch.setattr(time, "time", lambda: now)
    with open_run(tmp_path / "run") as run:
        run.write_metrics(metrics(5))
        reader = RunReader(run.path)
        assert reader.refresh().kind == "playing"
        now += SILENT_S + 5
        status = reader.refresh()
        assert (status.kind, status.ended) == ("silent", False)
        assert "no figures for 1:05" in status.text
        run.write_metrics(metrics(10))
        assert reader.refresh().kind == "playing"


def test_a_run_that_ended_by_an_error_or_was_killed_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingError), open_run(tmp_path / "run"):
        raise SettingError("no worker is left")
    status = RunReader(tmp_path / "run").refresh()
    assert status.kind == "failed"
    assert "ended by: no worker is left" in status.text
    child = subprocess.Popen(["true"])
    child.wait()
    (tmp_path / "run" / "lock").write_text(f"{child.pid}\n")
    status = RunReader(tmp_path / "run").refresh()
    assert status.kind == "killed"
    assert f"process {child.pid} is gone" in status.text


def test_lines_of_all_starts_are_read_once_and_torn_ones_wait(tmp_path: Path) -> None:
    path = tmp_path / "run"
    log = path / "metrics.jsonl"
    with open_run(path) as run:
        run.write_metrics(metrics(5))
        run.write_metrics(metrics(10))
        with log.open("ab") as file:
            file.write(b'{"half a line')
        reader = RunReader(path)
        reader.refresh()
        assert [point["t"] for point in texts(reader)] == [5, 10]
        with log.open("ab") as file:
            file.write(b'\n\n[1]\n{"seconds":NaN,"time":1}\n')
        run.write_metrics(metrics(4))  # the clock of another start
        reader.refresh()
        assert reader.damaged == 3
        assert [point["t"] for point in texts(reader)] == [5, 10, 14]
        assert [point["t"] for point in texts(reader, after=2)] == [14]
        log.unlink()
        reader.refresh()
        assert reader.count == 3  # what was read stays


def test_lines_that_no_run_writes_are_damaged_and_end_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run"
    strange = [b'{"seconds":1e999,"time":1}', b'{"seconds":"5","time":1}', b'{"seconds":5,"time":1,"x":"\xff"}']
    strange += [b'{"seconds":5,"time":1,"games_wanted":1e999}', b'{"seconds":5,"time":1,"x":' + b"[" * 100_000]
    with open_run(path) as run:
        run.write_metrics(metrics(5))
        with (path / "metrics.jsonl").open("ab") as file:
            file.write(b"\n".join(strange) + b"\n")
        run.write_metrics(metrics(10))
        reader = RunReader(path)
        assert reader.refresh().kind == "playing"
        assert [point["t"] for point in texts(reader)] == [5, 10]
        assert (reader.damaged, reader.total) == (len(strange), 100)
        (path / "summary.json").write_text('{"games": null}')
    assert reader.refresh().kind == "failed"


def test_many_lines_are_thinned_and_the_newest_stays(tmp_path: Path) -> None:
    path = tmp_path / "run"
    open_run(path, indices="50:80").close()
    assert RunReader(path).total == 30, "a part of a plan"
    lines = (json.dumps({"time": 1.0, **metrics(5.0 * (n + 1))}) for n in range(3 * MOST_POINTS + 1))
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    reader = RunReader(path)
    reader.refresh()
    points = texts(reader)
    assert MOST_POINTS / 2 < len(points) <= MOST_POINTS
    assert points[-1]["t"] == 5.0 * (3 * MOST_POINTS + 1)


# -- samples ---------------------------------------------------------------------------------------------------------


def test_processes_are_looked_at_in_groups() -> None:
    use = ProcessUse()
    assert MachineUse().look() is None
    with subprocess.Popen(["sleep", "60"]) as child:
        first = use.look({"mine": [os.getpid(), child.pid], "none": []})
        assert first["cpu_cores"] == {"mine": None, "none": None}
        assert first["memory_mb"]["none"] is None
        second = use.look({"mine": [os.getpid()], "none": [], "theirs": [child.pid]})
        assert second["cpu_cores"]["mine"] is not None
        assert second["memory_mb"]["mine"] > 1
        child.kill()
    assert use.look({"theirs": [child.pid]})["cpu_cores"] == {"theirs": None}


def test_only_cores_that_may_be_used_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of four cores, of which this process may use the second and the third."""
    Core = namedtuple("Core", ("user", "idle", "steal"))
    seconds, clock, host = [0.0, 0.0, 0.0, 0.0], 1.0, (float("inf"), {1, 2})
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [Core(busy, 100 - busy, 7.0) for busy in seconds])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: host[1], raising=False)
    monkeypatch.setattr(usage, "quota_cores", lambda: host[0])
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    machine = MachineUse()
    machine.look()
    clock, seconds = 11.0, [10.0, 10.0, 5.0, 10.0]
    assert machine.look() == 1.5
    assert usage.core_seconds() == (15.0, 185.0)
    for case in ((1.5, {1, 2}), (float("inf"), {1, 4})):  # a quota below them; a core that is not listed
        host = case
        assert usage.core_seconds() is None
        assert machine.look() is None


def test_gpus_are_looked_at_and_what_they_do_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")

    class Answer:
        gpu, used = 87, 3 * 2**20

    def unknown(*_: object) -> float:
        raise pynvml.NVMLError(3)

    for name, answer in {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetUtilizationRates": Answer,
        "nvmlDeviceGetMemoryInfo": Answer,
        "nvmlDeviceGetClockInfo": 1500,
    }.items():
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", unknown)
    gpus = GpuUse()
    assert gpus.look() == [{"use": 0.87, "memory_mb": 3.0, "power_w": None, "clock_mhz": 1500.0}]
    gpus.close()
    gpus.close()
    assert gpus.look() is None
    monkeypatch.setattr(pynvml, "nvmlInit", unknown)
    assert GpuUse().look() is None


# -- the page's server -----------------------------------------------------------------------------------------------


@contextmanager
def served(reader: RunReader) -> Iterator[int]:
    """Serve the page of `reader` from a thread; yields its port."""
    with PageServer(reader, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={"Connection": "close", **headers})
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


def data(port: int, after: object = 0) -> dict[str, Any]:
    response, text = ask(port, f"/data?after={after}")
    assert response.status == 200
    content = json.loads(text)
    assert isinstance(content, dict)
    return content


def test_the_page_is_for_browsers_of_this_machine_and_holds_all_it_needs(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", game="</script><img src=x>") as run, served(RunReader(run.path)) as port:
        for host in ("127.0.0.1", f"localhost:{port}", "LocalHost:9", f"[::1]:{port}", "[::1]"):
            assert ask(port, "/", Host=host)[0].status == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost:x", "evil:80", "", "127.0.0.1:80:80"):
            response, text = ask(port, "/data", Host=host)
            assert response.status in (400, 403), host
            assert "points" not in text
        assert [ask(port, path)[0].status for path in ("/etc/passwd", "/../watch.py")] == [404, 404]
        assert ask(port, "/", method="POST")[0].status == 501
        assert ask(port, "/", method="HEAD")[1] == ""
        response, page = ask(port, "/")
        policy = response.getheader("Content-Security-Policy") or ""
        assert "default-src 'none'" in policy
        assert "connect-src 'self'" in policy
        assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]  # a name, not an address
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|<link[^>]+stylesheet", page)
        assert ask(port, "/data")[0].getheader("X-Content-Type-Options") == "nosniff"


def test_points_come_once_and_odd_requests_get_all(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.write_metrics(metrics(5))
        run.write_metrics(metrics(10))
        with served(RunReader(run.path)) as port:
            first = data(port)
            assert (first["next"], len(first["points"]), first["status"]["kind"]) == (2, 2, "playing")
            run.write_metrics(metrics(15))
            assert [point["t"] for point in data(port, after=2)["points"]] == [15]
            for odd in ("-1", "x", "", "9" * 40):
                assert len(data(port, after=odd)["points"]) == 3
            assert data(port, after=7)["restart"]  # another file than this one


# -- real runs -------------------------------------------------------------------------------------------------------


def check_line(line: dict[str, Any]) -> None:
    """Check one line of metrics of a run with a server and two workers; docs/reference/metrics.md has all keys."""
    assert not {key for key in line.keys() - {"t"} if f"`{key}`" not in DOCUMENTED}
    assert line.keys() >= metrics(5).keys()
    assert line["cpu_cores"].keys() == line["memory_mb"].keys() == GROUPS
    assert len(line["evaluations_per_second_by_worker"]) == 2
    if sum(line["batch_sizes"]):
        assert line["queue_ms"] <= line["queue_ms_p90"] <= line["queue_ms_p99"]
        assert line["compute_ms"] <= line["compute_ms_p90"] <= line["compute_ms_p99"]


def test_a_run_is_watched_while_it_plays_is_killed_and_resumed(grove: Grove, eventually: Eventually) -> None:
    out = grove.folder / "run"
    command = (*PLAY, "--pool", "process", "--seed", 1, "--out", out)
    run = grove.start(*command, "--games", 1_000_000)
    eventually((out / "config.toml").exists)
    page = grove.start("watch", out, "--web")
    assert page.stdout is not None
    first = page.stdout.readline()
    port = int(re.findall(r"http://127\.0\.0\.1:(\d+)/", first)[0])
    with pytest.raises(SettingError, match="choose another"):
        serve_page(RunReader(out), port)
    assert data(port)["status"]["kind"] in ("starting", "playing")
    terminal = grove.start("watch", out)
    eventually(lambda: list((out / "games").glob("*.jsonl")))
    server_of(run).kill()
    point = eventually(
        lambda: [p for p in data(port)["points"] if p["games"] and p["server_restarted"] and sum(p["batch_sizes"])]
    )[0]
    check_line(point)
    assert not data(port)["status"]["ended"]
    assert "<svg" not in ask(port, "/data")[1]
    os.kill(run.pid, signal.SIGKILL)
    killed = eventually(lambda: (found := data(port)["status"])["ended"] and found)
    assert killed["kind"] == "killed"
    assert f"process {run.pid} is gone" in killed["text"]
    said = grove.end(terminal).stdout
    assert re.search(r"/1,000,000 games .* 1 server restart", said)
    assert data(port)["binds"] == ""
    assert f"killed: process {run.pid} is gone" in said
    grove.end(run)
    played = len(eventually(lambda: grove.read(out)))
    grove.play_apart(*command, "--games", played + 5)
    found = eventually(lambda: (found := data(port))["status"]["kind"] == "finished" and found)
    assert (found["games"], found["total"]) == (played + 5, played + 5)
    assert found["points"][-1]["t"] > point["t"]
    page.send_signal(signal.SIGINT)
    assert grove.end(page).returncode == 0
    said = grove.play("watch", out)
    assert f"{played + 5:,}/{played + 5:,} games  finished" in said
    assert "evaluations/s " in said  # the summary


def server_of(run: subprocess.Popen[str]) -> psutil.Process:
    """Return the inference server of a run with a process pool: the child whose socket has a name."""
    children = psutil.Process(run.pid).children(recursive=True)
    (found,) = (one for one in children if any("/grove-" in c.laddr for c in one.net_connections("unix")))
    return found


# -- a browser -------------------------------------------------------------------------------------------------------


def dom(port: int, folder: Path) -> str:
    """Return the page as a browser without a network makes it in ten of its seconds."""
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"),
        *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=10000"),
        *("--disable-background-networking", "--dump-dom", f"http://127.0.0.1:{port}/"),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


class Growing(RunReader):
    """A reader whose run has written one more line each time it looks."""

    run: RunFolder | None = None
    written = 0

    def refresh(self) -> Any:
        if self.run is not None:
            self.written += 1
            gpus = [{"use": share, "memory_mb": 1000.0, "power_w": 300.0, "clock_mhz": None} for share in (0.9, 0.3)]
            self.run.write_metrics(metrics(5.0 * self.written, gpus=gpus))
        return super().refresh()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed (apt-get install chromium)")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", game="<b>hex</b>")
    run.describe({"device": "cpu", "cores": 2})
    reader = Growing(run.path)
    reader.run = run
    with served(reader) as port:
        page = dom(port, tmp_path / "browser")
        assert int(re.findall(r'data-points="(\d+)"', page)[0]) > 1, "updates arrive"
        for words in (
            *('data-status="playing"', "&lt;b&gt;hex&lt;/b&gt;", "What binds: the network", "A batch holds 200 rows"),
            *("1 worker lost, 1 restarted; the server was restarted once", "60 % hold ≤256"),
            *("GPU 0 busy 90 %, GPU 1 busy 30 %, lanes busy 90 %", "Workers evaluate 20,000 to 30,000 a second"),
        ):
            assert words in page
        for chart in CHARTS:
            drawn = re.findall(rf'<section id="{chart}">(.*?)</section>', page, re.DOTALL)[0]
            assert re.search(r'<path[^>]* d="M[^"]+L|<rect ', drawn), chart
            assert "NaN" not in drawn
        reader.run = None
        run.write_metrics(metrics(5.0 * reader.written + 5, lane_idle="all", games_wanted=1))
        run.write_summary({"games": 1, "games_left": 0})
        run.close()
        page = dom(port, tmp_path / "browser")
        assert 'data-status="finished"' in page
        assert page.count("<h2>Cannot be drawn: ") == 1, "the other charts are drawn all the same"
