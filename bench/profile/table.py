"""What a profile leaves: profile.json, stages.txt, cprofile.txt, and the same tables for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from grove.bench.core.probe import MOVED
from grove.bench.core.report import BUSY
from grove.bench.profile.figures import IO_THREAD, TOP, Figures, top_functions
from grove.common.machine import usable_cores

_HEADS = ("stage", "share", "seconds", "calls", "us/step", "us/row")


def write_profile(out: Path, head: Figures, figures: Figures, pstats_file: Path) -> tuple[list[Path], str]:
    """Write all files of the profile to `out`; return their paths and the text for the terminal."""
    top = top_functions(pstats_file) if pstats_file.exists() else []
    watched = {"file": pstats_file.name if top else None, "sorted_by": "own_seconds", "top": top}
    warnings = busy_warnings(figures, usable_cores())
    text = "\n\n".join((*stage_tables(figures), "\n".join(interpreter_lines(figures)), *warnings))
    content = {**head, **figures, "cprofile": watched}
    files = {
        "profile.json": json.dumps(content, indent=2, default=str),
        "stages.txt": text,
        "cprofile.txt": cprofile_text(top),
    }
    for name, words in files.items():
        (out / name).write_text(words + "\n", encoding="utf-8")
    written = [out / name for name in files] + ([pstats_file] if top else [])
    return written + [out / name for name in figures["py_spy"]["flames"].values()], text


def stage_tables(figures: Figures) -> list[str]:
    """Return one table for the workers and one for each of the server's threads."""
    load, part = figures["load"], figures["workers"]
    one, many = ("thread", "threads") if load["pool"] == "thread" else ("process", "processes")
    who = f"{part['threads']} worker {one if part['threads'] == 1 else many}"
    tables = [_table(f"{who}: {part['laps']:,} steps, {part['rows']:,} rows", part, figures["tolerance"])]
    server = figures["server"]
    for name, thread in server["threads"].items():
        counts = f"{server['laps']:,} requests, {server['rows']:,} rows in {server['batches']:,} batches"
        tables.append(_table(f"server, thread {name}: {counts}", thread, figures["tolerance"]))
    return tables


def _table(title: str, part: Figures, tolerance: float) -> str:
    rows = [_row(stage) for stage in part["stages"]]
    total = f"{part['sum_seconds']:.3f} s of {part['wall_seconds']:.3f} s wall"
    verdict = "adds up" if part["adds_up"] else "DOES NOT ADD UP"
    foot = f"sum: {total}, {part['unaccounted_share']:+.1%} not accounted for (tolerance {tolerance:.0%}): {verdict}"
    used = f"processor: {part['cpu_seconds']:.3f} s, {part['cpu_seconds'] / part['wall_seconds']:.1%} of the wall time"
    return "\n".join((title, *aligned((_HEADS, *rows)), foot, used))


def _row(stage: Figures) -> tuple[str, ...]:
    return (
        stage["stage"],
        f"{stage['share']:.1%}",
        f"{stage['seconds']:.3f}",
        f"{stage['calls']:,}",
        _number(stage["us_per_lap"], "{:,.1f}"),
        _number(stage["us_per_row"], "{:.3f}"),
    )


def interpreter_lines(figures: Figures) -> list[str]:
    """Return in words how much of the interpreter the I/O thread and the search take, and what the timers cost."""
    return [*_io_lines(figures), *_search_lines(figures), *_cost_lines(figures)]


def busy_warnings(figures: Figures, cores: int) -> list[str]:
    """Return what speaks against trusting times: a machine that changed its speed, or whose `cores` others used."""
    beside, said = figures["machine_beside"], []
    if beside["probe_moved"] > MOVED:
        said.append(
            f"beware: the burn probe beside the passes moved by up to {beside['probe_moved']:.0%}: the machine changed "
            "its speed or had other work, so compare times of one pass only, or profile again on a quiet machine"
        )
    if (others := beside["others_cpu"]) is None:
        said.append("how much other programs used meanwhile is not known: a CPU quota hides it")
    elif others > BUSY * cores:
        said.append(
            f"beware: other programs used {others:.1f} of {cores} cores meanwhile; wall times hold their share, "
            "processor times do not"
        )
    return said


def _io_lines(figures: Figures) -> Iterable[str]:
    here = figures["interpreter"]
    if here["io_thread"] is None:
        yield "the server's I/O thread: none, nothing comes over a socket"
        return
    held = here["io_thread_gil_share"]
    measured = (
        "who held the lock was not sampled" if held is None else f"held the interpreter lock {held:.1%} of the time"
    )
    yield f"the server's I/O thread {IO_THREAD}: {here['io_thread_cpu_share']:.1%} of a core; {measured}"


def _search_lines(figures: Figures) -> Iterable[str]:
    here, load = figures["interpreter"], figures["load"]
    if here["search_gil_share"] is not None:
        whose = (
            "the server's lock, all search threads together" if load["pool"] == "thread" else "its own lock, a worker"
        )
        per_step = f"{here['search_gil_us_per_lap']:.0f} us a step"
        yield f"search by workers/gil.py: {per_step}, {here['search_gil_share']:.1%} of {whose}"
    for process, threads in here["gil_by_thread"].items():
        shares = ", ".join(f"{name} {share:.1%}" for name, share in threads.items()) or "nobody"
        yield f"interpreter lock of the {process}, held by (py-spy): {shares}"
    for process, why in figures["py_spy"]["gil_faults"].items():
        yield f"interpreter lock of the {process}: not sampled: {why}"


def _cost_lines(figures: Figures) -> Iterable[str]:
    timers, passes = figures["timers"], figures["passes"]
    yield f"timers: {timers['us_per_call']:.2f} us a timed call, {timers['share']:.1%} of the workers' time"
    rates = ", ".join(f"{name} {part['evaluations_per_second']:,.0f}" for name, part in passes.items())
    yield f"evaluations/s in each pass: {rates}"
    fault = figures["py_spy"]["fault"]
    if fault:
        yield f"no flame graph: {fault}"


def cprofile_text(top: Sequence[Figures]) -> str:
    """Return the functions that took the most time themselves as a table."""
    if not top:
        return "cProfile saw nothing: the worker did not come to rest"
    heads = ("function", "calls", "own s", "total s")
    rows = [
        (row["function"], f"{row['calls']:,}", f"{row['own_seconds']:.3f}", f"{row['total_seconds']:.3f}")
        for row in top
    ]
    return "\n".join((f"one worker's loop, the {TOP} functions with the most own time", *aligned((heads, *rows))))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = (text.rjust(width) for text, width in zip(row, widths, strict=True))
        lines.append("  ".join((first.lstrip().ljust(widths[0]), *rest)))
    return lines


def _number(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)
