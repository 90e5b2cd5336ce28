"""What a report recommends: plain rules over measured figures, each line with the figure it rests on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grove.bench.core.modes import FIXED
from grove.bench.core.probe import MOVED
from grove.bench.core.report import busy_warning
from grove.common.numbers import amount, percent
from grove.common.words import plural
from grove.workers.pool.figures import counted

_IDLE, _BUSY = 0.3, 0.1
"""Idle share of the lanes from which they want rows, and up to which they are full."""
_PADDING = 0.75
"""Fill below which padding costs much."""
_TIMED_OUT = 0.2
"""Share of batches sent by the time-out from which somebody holds rows back."""
_SHORT_S = 20.0
"""Seconds of playing below which rates say little."""
_ENTROPY = 0.3
"""Relative difference of mean visit entropy from which two modes do not search alike."""
_COMPILING = 0.1
"""Share of the lock from which compiling disturbs what is measured."""
_LOCK = 0.5
"""Share of one interpreter lock from which threads wait for it."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NOTES = 5
"""Notes on points of a sweep that are shown."""

Figures = Mapping[str, Any]


def selfplay_advice(summary: Figures, settings: Figures) -> list[str]:
    """Return what to change about a run."""
    if not summary:
        return []
    found = [*_of_the_run(summary), *_of_the_lanes(summary, settings), *_of_the_batches(summary)]
    if not any("--" in line or "network" in line for line in found):
        found.append("Nothing stands out. `grove bench limit` with these settings says what binds.")
    return found


def _of_the_run(summary: Figures) -> Iterator[str]:
    if summary.get("games_left"):
        yield f"Left to play: {plural(summary['games_left'], 'games')}; the same command with the same --out plays on."
    if summary.get("workers_restarted"):
        yield f"Workers were started again {_times(summary['workers_restarted'])}; log.txt says why."
    if summary.get("server_restarted"):
        yield f"The server was started again {_times(summary['server_restarted'])}; log.txt says why."
    if summary.get("timeouts"):
        yield f"{plural(summary['timeouts'], 'games')} ended at the cap of moves; --max-moves sets it."
    if 0 < float(summary.get("seconds") or 0) < _SHORT_S:
        yield f"The run played for {summary['seconds']:.1f} s only: its rates say little about longer ones."
    hits = summary.get("cache_hit_rate")
    if hits is not None and hits < 0.02:
        yield f"The cache answered {percent(hits)} of the look-ups; --cache 0 saves them."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _of_the_lanes(summary: Figures, settings: Figures) -> Iterator[str]:
    idle = summary.get("lane_idle") or []
    if not idle or not summary.get("evaluations_per_second"):
        return
    mean = sum(idle) / len(idle)
    rows, most = summary.get("mean_batch_rows") or 0.0, settings.get("max_batch")
    if mean <= _BUSY:
        yield (
            f"The lanes are busy {percent(1 - mean)} of the time: the network binds. A smaller network, bf16 or "
            "another device brings more; more workers do not."
        )
    elif mean >= _IDLE:
        of = f" of {most}" if most else ""
        yield (
            f"The lanes idle {percent(mean)} of the time with {amount(rows)}{of} rows a batch: give them more rows by "
            f"--games-per-worker {2 * int(summary.get('games_per_worker') or 64)} or by more --workers."
        )


def _of_the_batches(summary: Figures) -> Iterator[str]:
    fill, reasons = summary.get("fill"), summary.get("dispatch_reasons") or {}
    if fill is not None and 0 < fill < _PADDING:
        yield f"{percent(1 - fill)} of the rows computed are padding: more games in flight fill the buckets."
    total = sum(reasons.values())
    late = reasons.get("delay", 0) / total if total else 0.0
    if late >= _TIMED_OUT:
        yield f"{percent(late)} of the batches left by the time-out: workers are slower than --max-delay-us allows for."


def compare_advice(rows: Sequence[Figures]) -> list[str]:
    """Return what follows from a comparison."""
    measured = [row for row in rows if not row.get("not_measured") and row.get("evaluations_per_second")]
    measured = [row for row in measured if not is_variant(row)]
    return [*_of_the_winner(measured), *_of_the_search(measured), *_of_the_rounds(measured)] if measured else []


def is_variant(row: Figures) -> bool:
    """Return whether a row is a variant of `direct`, tried briefly to choose the baseline."""
    return str(row.get("mode")).startswith("direct-")


def best_row(rows: Sequence[Figures]) -> int:
    """Return the number of the row with the most evaluations per second, -1 when none has any."""
    rates = [float(row.get("evaluations_per_second") or 0.0) for row in rows]
    return rates.index(max(rates)) if rates and max(rates) > 0 else -1


def compare_finding(rows: Sequence[Figures]) -> str:
    """Return the finding of a comparison in one line."""
    best = best_row(rows)
    if best < 0:
        return "Nothing could be measured."
    row = rows[best]
    parts = [f"{row.get('mode')} is fastest: {amount(row['evaluations_per_second'])} evaluations/s"]
    if row.get("ratio_to_direct") and row.get("mode") != "direct":
        parts.append(f"{row['ratio_to_direct']:.1f} times direct")
    if row.get("peak_share"):
        parts.append(f"{percent(row['peak_share'])} of the network alone")
    return ", ".join(parts)


def sweep_advice(rows: Sequence[Figures], best: int) -> list[str]:
    """Return the flags of the fastest point, and whether it crowds the cores."""
    row = rows[best]
    mode = str(row.get("mode"))
    names = {"workers": "workers", "games_per_worker": "games-per-worker", "batch_size": "max-batch"}
    names |= {"window_us": "max-delay-us", "lanes": "lanes"}
    own = mode in ("local", "direct")
    flags = [f"--{flag} {row[key]}" for key, flag in names.items() if row.get(key) not in (None, "") and not own]
    flags = flags or [f"--{names[key]} {row[key]}" for key in ("workers", "games_per_worker") if row.get(key)]
    rule = f", under {mode}, another program's batching rule, which runs do not have" if mode in FIXED else ""
    out = [f"The fastest point: {' '.join([*_mode_flags(mode), *flags])}{rule}."]
    crowd = row.get("over_subscription")
    if isinstance(crowd, int | float) and crowd > 2:
        out.append(f"It has {crowd:.1f} threads a core that want to run: fewer workers may do as well.")
    return out


_MODE_FLAGS = {
    "server-thread": "--pool thread",
    "server-process": "--pool process",
    "local": "--evaluator local",
    "direct": "--evaluator direct",
}


def _mode_flags(mode: str) -> list[str]:
    return [_MODE_FLAGS[mode]] if mode in _MODE_FLAGS else []


def _of_the_winner(rows: Sequence[Figures]) -> Iterator[str]:
    best = rows[best_row(rows)]
    mode = str(best.get("mode"))
    flags = _mode_flags(mode)
    yield f"Play with {flags[0]} on this machine." if flags else f"The mode {mode} is the fastest here."
    share = best.get("peak_share")
    if share is not None:
        what = (
            "the network binds; only a faster one or another device brings more"
            if share >= 0.8
            else ("`grove bench limit` says what takes the rest")
        )
        yield f"It reaches {percent(share)} of what the network alone computes: {what}."


def _of_the_search(rows: Sequence[Figures]) -> Iterator[str]:
    """Warn of modes whose search is not the others': speed without search is none."""
    entropies = {str(row["mode"]): row["mean_visit_entropy"] for row in rows if row.get("mean_visit_entropy")}
    if len(entropies) > 1 and max(entropies.values()) > (1 + _ENTROPY) * min(entropies.values()):
        text = ", ".join(f"{mode} {value:.2f}" for mode, value in entropies.items())
        yield f"The modes' visits are not spread alike (entropy {text}): check that all of them search alike."
    for row in rows:
        share = row.get("distinct_share")
        if share is not None and share < 0.9:
            yield f"{row['mode']}: only {percent(share)} of the evaluations of a decision are distinct states."


def _of_the_rounds(rows: Sequence[Figures]) -> Iterator[str]:
    dropped, kept = int(rows[0].get("rounds_dropped") or 0), int(rows[0].get("rounds") or 0)
    if dropped and dropped >= kept / 2:
        yield f"{dropped} of {dropped + kept} rounds were dropped, because the machine was not quiet: repeat it."
    for row in rows:
        if row.get("note"):
            yield f"{row['mode']}: {row['note']}."


def peers_advice(rows: Sequence[Figures]) -> list[str]:
    """Return what to know about a comparison with peers."""
    measured = [row for row in rows if not row.get("not_measured")]
    return list(_of_the_rounds(measured)) if measured else []


def quiet_advice(head: Figures) -> list[str]:
    """Return a warning when other programs used the machine of `head` (`machine`, `others_cpu`), or nobody can know."""
    if "others_cpu" not in head:
        return []
    warning = busy_warning(head["others_cpu"], int((head.get("machine") or {}).get("cores") or 1))
    return [f"{warning[0].upper()}{warning[1:]}."] if warning else []


def points_advice(points: Sequence[tuple[str, Figures]]) -> list[str]:
    """Return what to know about the points of a sweep, each given with its name.

    Notes that differ in numbers only are one, with the lowest and the highest of these.
    """
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, row in points:
        for note in filter(None, str(row.get("note") or "").split("; ")):
            alike.setdefault(_NUMBER.sub("", note), []).append((name, note))
    found = [
        f"{_some([name for name, _ in notes], len(points))}: {_as_one([note for _, note in notes])}."
        for notes in alike.values()
    ]
    return found if len(found) <= _NOTES else [*found[:_NOTES], f"{len(found) - _NOTES} more notes are in the table."]


def _as_one(notes: Sequence[str]) -> str:
    """Return notes that differ in numbers only as one."""
    columns = iter(zip(*(_NUMBER.findall(note) for note in notes), strict=True))

    def ends(_: re.Match[str]) -> str:
        numbers = sorted(next(columns), key=float)
        return " to ".join(dict.fromkeys((numbers[0], numbers[-1])))

    return _NUMBER.sub(ends, notes[0])


def _some(names: Sequence[str], points: int) -> str:
    if len(names) == points > 1:
        return "All points"
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def limit_advice(content: Figures) -> list[str]:
    """Return what speaks against trusting a limit."""
    measured, found = content.get("measured") or {}, []
    if measured.get("idle_cores") is not None:
        used = measured["whole_rate"] * measured["whole_cpu"] + measured["idle_cores"]
        if (others := measured["cores"] - used) > MOVED * measured["cores"]:
            found.append(
                f"Beware: other programs used {others:.1f} of {measured['cores']} cores while the whole played."
            )
    if (moved := content.get("probe_moved") or 0.0) > MOVED:
        found.append(f"Beware: the burn probe moved by {percent(moved)}: measure again on a quiet machine.")
    return found


def profile_advice(content: Figures) -> list[str]:
    """Return what follows from a profile."""
    return [*_of_the_stages(content), *_of_the_interpreter(content)]


def profile_finding(content: Figures) -> str:
    """Return which stage takes most of the workers' time."""
    stages = (content.get("workers") or {}).get("stages") or []
    if not stages:
        return "No stage was timed."
    first = max(stages, key=lambda stage: float(stage.get("share") or 0))
    doing = {"wait": "wait for answers", "compute": "compute their own network's answers", "ask": "descend their trees"}
    what = doing.get(first["stage"], f"are in the stage {first['stage']}")
    return f"The workers {what} {percent(first['share'])} of the time"


def _of_the_stages(content: Figures) -> Iterator[str]:
    part = content.get("workers") or {}
    shares = {stage["stage"]: stage["share"] for stage in part.get("stages", [])}
    if shares.get("wait", 0) >= 0.5:
        yield "More than half of the workers' time is waiting: the server binds, or too few games are in flight."
    if shares.get("record", 0) >= 0.05:
        yield f"Writing records takes {percent(shares['record'])} of the workers' time: put --out on a faster disk."
    crowded = part.get("wall_seconds") and part["cpu_seconds"] / part["wall_seconds"] + shares.get("wait", 0) < 0.7
    if crowded and "compute" not in shares:
        yield "Workers neither wait nor run for much of the time: too many threads share the cores, or the lock."
    for name, thread in {"workers": part, **((content.get("server") or {}).get("threads") or {})}.items():
        if thread and not thread.get("adds_up", True):
            yield f"{name}: the stages do not add up to the clock ({thread['unaccounted_share']:+.1%}); profile longer."


def _of_the_interpreter(content: Figures) -> Iterator[str]:
    found = content.get("interpreter") or {}
    held = (found.get("gil_by_thread") or {}).get("server") or {}
    compiling = sum(float(share) for name, share in held.items() if name.startswith("compile-"))
    if compiling >= _COMPILING:
        yield f"The network was still being compiled ({percent(compiling)} of the lock): profile again, quietly."
    share = found.get("io_thread_gil_share")
    share = found.get("io_thread_cpu_share") if share is None else share
    if share is not None and share >= _LOCK:
        yield f"The server's I/O thread takes {percent(share)} of its interpreter: send more rows a message."
    search = found.get("search_gil_share")
    if search is not None and search >= _LOCK and (content.get("load") or {}).get("pool") == "thread":
        yield f"Searching takes {percent(search)} of the interpreter lock: try --pool process."


def selfplay_finding(summary: Figures) -> str:
    """Return a run's rates in one line."""
    if not summary:
        return "No figure was recorded."
    rates = [f"{amount(summary.get(f'{unit}_per_minute'))} {unit}/min" for unit in counted(summary)]
    rates.append(f"{amount(summary.get('evaluations_per_second'))} evaluations/s")
    return ", ".join(rates)
