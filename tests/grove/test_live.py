"""The live view: a screen in a terminal, lines in a pipe, the same figures in both."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest
from rich.console import Console

from grove.common import numbers
from grove.live import view as live
from grove.live.snapshot import Snapshot, what_binds
from grove.live.view import LiveView
from grove.run import summary as end

FULL: Snapshot = {
    "game": "connect_four",
    "folder": "runs/first",
    "device": "cpu",
    "device_reason": "no GPU found",
    "dtype": "bf16",
    "dtype_reason": "probe: 2.1 times as fast as fp32",
    "network": "resnet:blocks=3,channels=32",
    "network_reason": "auto: boards of 2x6x7",
    "pool": "thread",
    "pool_reason": "compiled game",
    "games": 120,
    "games_per_minute": 400.0,
    "evaluations_per_second": 61234.5,
    "simulations_per_second": 80123.4,
    "mean_batch_rows": 250.3,
    "fill": 0.978,
    "dispatch_reasons": {"full": 820, "all_blocked": 170, "delay": 9, "shutdown": 1},
    "cache_hit_rate": 0.213,
    "queue_ms": 0.84,
    "compute_ms": 3.91,
    "lane_idle": [0.021, 0.034],
    "workers_alive": 4,
    "workers_restarted": 1,
    "server_restarted": 2,
    "cores": 2,
    "cpu_cores": {"server": 1.9},
}
LINE = (
    "120/200 games  ETA 0:12  games/min 400  evaluations/s 61,234  simulations/s 80,123  cache hits 21 %  "
    "rows/batch 250  fill 98 %  queue 0.8 ms  compute 3.9 ms  sent: full 82 %  sent: all_blocked 17 %  "
    "sent: delay 0.9 %  sent: shutdown 0.1 %  workers 4 alive, 1 restarted, 2 server restarts"
    "  lanes idle 2.1 %, 3.4 %  cores 1.9 of 2  "
    "binds: the network (lanes busy 97 %, cores 95 %)"
)

SUMMARY: dict[str, Any] = {
    "games": 200,
    "seconds": 48.2,
    "games_per_minute": 249.0,
    "dispatch_reasons": {"full": 1, "shutdown": 1},
    "cache_hit_rate": None,
    "model_version": "0123456789abcdef",
    "pool": "thread",
    "something_new": 1,
}


def drawn(state: Snapshot, width: int = 80, total: int = 200) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(live.screen(state, total))
    return out.getvalue().splitlines()


def test_screen_fits_and_shows_every_figure() -> None:
    lines = drawn(FULL)
    text = " ".join(" ".join(lines).split())
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80
    for pair in LINE.replace("binds: ", "binds ").split("  ")[2:]:
        assert pair in text
    for words in ("120 of 200 games ETA 0:12", "runs/first", "device cpu no GPU found"):
        assert words in text
    assert "…" not in text


def test_screen_of_nothing_yet() -> None:
    assert "0 of 200 games  starting" in "\n".join(drawn({"state": "starting"}))
    assert "ETA -" in "\n".join(drawn({}))


def test_no_name_is_markup() -> None:
    state: Snapshot = {"games": 0, "folder": "runs/[/x][bold]", "game": "[red]", "pool": ":bug:"}
    screen = "\n".join(drawn(state, total=1))
    assert "0 of 1 game " in screen
    assert all(text in screen for text in ("runs/[/x][bold]", "[red]", ":bug:"))
    out = io.StringIO()
    end.print_summary({"games": 1, "model_version": "[/x]"}, "runs/[/x]", out)
    assert out.getvalue().splitlines()[-1] == "run folder  runs/[/x]"


def test_pipe_gets_heads_once_and_lines_without_control_codes() -> None:
    out = io.StringIO()
    with LiveView(200, out=out, plain_every_s=3600.0) as view:
        view.update({"state": "starting"})
        view.update({**FULL, "state": ""})
        view.message("worker 2 restarted")
        view.update(FULL)
    lines = out.getvalue().splitlines()
    assert lines[:3] == [
        *("0/200 games  starting", "Grove  connect_four  runs/first", "device: cpu (no GPU found)")
    ]
    assert lines[-3:] == ["pool: thread (compiled game)", "worker 2 restarted", LINE]
    assert len(lines) == 8
    assert "\x1b" not in out.getvalue()


MATCHES: dict[str, Any] = {"unit": "matches", "games_per_minute": 5.0, "matches_per_minute": 5.0}


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ({}, {"games/min": "-"}),
        ({"games_per_minute": 3.0}, {"games/min": "3"}),
        (MATCHES | {"rounds_per_minute": 90.0}, {"matches/min": "5", "rounds/min": "90"}),
    ],
)
def test_rates_are_in_the_units_of_the_game(figures: dict[str, Any], shown: dict[str, str]) -> None:
    """In the screen, in plain lines and in the summary; a match's rounds are never taken for matches."""
    state = {"games": 120, **figures}
    screen, line = "\n".join(drawn(state)), live.plain_line(state, 200)
    unit = figures.get("unit", "games")
    assert f"120 of 200 {unit}" in screen
    assert line.startswith(f"120/200 {unit}")
    for name, text in shown.items():
        assert screen[screen.index(name) :].split()[1] == text
        assert text == "-" or f"{name} {text}" in line
    rows = dict(end.summary_rows(state))
    assert rows == {unit: "120", **{name: text for name, text in shown.items() if text != "-"}}
    assert {name for name in ("games", "rounds", "matches") if f"{name}/min" in screen} == {
        name.removesuffix("/min") for name in shown
    }


def read_all(leader: int) -> str:
    """Return what was written to the pseudo-terminal whose other end is closed, and close it."""
    said = b""
    try:
        while part := os.read(leader, 4096):
            said += part
    except OSError:  # Linux's word for the end
        pass
    os.close(leader)
    return said.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("width", "is_screen"), [(80, True), (50, False)])
def test_terminal_gets_the_screen_when_it_is_wide_enough(
    width: int, is_screen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as out, LiveView(200, out=out, width=width) as view:
        view.update(FULL)
        view.message("worker 2 restarted")
    said = read_all(leader)
    hidden, shown = "\x1b[?25l", "\x1b[?25h"  # the cursor
    assert said.count(hidden) == said.count(shown) == is_screen
    assert "worker 2 restarted" in said
    assert ("of 200 games" in said) == is_screen


def test_numbers_for_people() -> None:
    assert [numbers.amount(value) for value in (1234567.8, 12.34, 12, None)] == ["1,234,568", "12.3", "12", "-"]
    assert [numbers.percent(share) for share in (0.0, 0.0123, 1.0, None)] == ["0 %", "1.2 %", "100 %", "-"]
    assert [numbers.duration(s) for s in (41.2, 59.9, 12000.0, None)] == ["0:42", "1:00", "3:20:00", "-"]


def test_what_binds_in_words() -> None:
    assert what_binds({}, 100) == ""
    state = dict[str, Any](cores=2, cpu_cores={"server": 1.0, "workers": 0.95}, lane_idle=[0.05, 0.05])
    assert what_binds(state, 100).startswith("the network (lanes busy 95 %")
    state["lane_idle"] = [0.5]
    assert what_binds(state, 100).startswith("the processors (lanes busy 50 %, cores 98 %")
    state["cpu_cores"] = {"server": 1.0, "workers": None}
    state["machine_cores"] = 1.9
    assert what_binds(state, 100).startswith("other programs, which take 0.9 of 2 cores")


def test_the_remedy_for_idle_lanes_and_cores_is_by_why_batches_leave() -> None:
    state = dict[str, Any](cores=2, cpu_cores={"server": 1.0}, lane_idle=[0.5], pool="process", machine_cores=None)
    state |= {"dispatch_reasons": {"all_blocked": 8, "delay": 1, "full": 1}}
    said = "neither is full (lanes busy 50 %, cores 50 %): try "
    assert what_binds(state, 100).startswith(said + "more --games-per-worker")
    state["dispatch_reasons"] = {"all_blocked": 1, "delay": 9}
    assert what_binds(state, 100) == said + "more --workers"
    assert what_binds(state | {"pool": "thread", "workers_alive": 2}, 100).startswith(said + "--pool process")
    assert what_binds(state | {"pool": "thread", "workers_alive": 1}, 100) == said + "more --workers"
    state |= {"games": 85, "workers_alive": 2, "games_per_worker": 8}
    assert what_binds(state, 101) == said + "more --workers"
    assert what_binds(state, 100) == "", "fewer games are left than the workers hold at once"


def test_many_lanes_and_many_reasons_are_summed_up() -> None:
    lanes = [0.01 * lane for lane in range(16)]
    reasons = dict.fromkeys("abcdef", 1)
    text = "\n".join(drawn({"lane_idle": lanes, "dispatch_reasons": reasons, "cache_hit_rate": None}))
    assert "0 % to 15 % of 16" in text
    assert "sent: other" in text
    assert "off" in text


def test_summary_as_table_and_as_lines() -> None:
    rows = dict(end.summary_rows(SUMMARY))
    assert rows["time"] == "0:49"
    assert rows["sent when"] == "full 50 %, shutdown 50 %"
    assert rows["cache hits"] == "off"
    assert end.summary_table(SUMMARY).row_count == len(rows) == 7
    without_server = {"fill": None, "mean_batch_rows": None, "model_version": "", "dispatch_reasons": {"full": 0}}
    assert dict(end.summary_rows(SUMMARY | without_server)).keys() == {*rows} - {"sent when", "model"}
    out = io.StringIO()
    end.print_summary(SUMMARY, "runs/first", out)
    assert "games/min             249\n" in out.getvalue()
