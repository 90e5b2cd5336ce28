"""From a folder to its section of the report: finding, recommendations, tables; what is unknown is shown as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from grove.bench.core.report import days_texts
from grove.bench.sweep.finding import best_point, rank_column
from grove.common.numbers import amount, percent
from grove.report import advice
from grove.report.generic import POINT, STARTS, generic, inner_rows, rest, rows_table, transposed, varying
from grove.report.html import Html, Part, details, join, pairs, shown, table, tag
from grove.report.read import Source
from grove.report.soak import LOSSES, soak_finding
from grove.run.summary import summary_rows
from grove.workers.pool.figures import counted

Figures = Mapping[str, Any]
_MACHINE = ("cpu", "cores", "memory", "gpus", "system", "python", "numpy", "numba", "torch", "host")


@dataclass
class Section:
    """What the page says of one folder."""

    source: Source
    finding: str = ""
    advice: list[str] = field(default_factory=list)
    tables: list[Html] = field(default_factory=list)
    head: Figures = field(default_factory=dict)
    """Version, commit, machine, command and time."""
    settings: Figures = field(default_factory=dict)


def section_of(source: Source) -> Section:
    """Return the section of a folder; a damaged or foreign content never hides the rest."""
    made = Section(source)
    made.head, made.settings = _head(source), _settings(source)
    try:
        _BUILDERS.get(source.kind, _other)(made)
        if source.kind in _BUILDERS:
            made.tables += [details(name, *generic(content)) for name, content in source.others().items()]
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        why = f"{type(error).__name__}: {error}"
        source.problems.append(
            f"the figures are not what a {source.kind} folder holds ({why}); they are shown as they are"
        )
        made.tables = []
        _other(made)
    return made


def _head(source: Source) -> Figures:
    """Return the first table that says on which machine it was measured."""
    first = source.table("run.json")
    tables = [first, *(content for content in source.files.values() if isinstance(content, dict))]
    return next((content for content in tables if "machine" in content or "commit" in content), first)


def _settings(source: Source) -> Figures:
    inside = _head(source).get("settings")
    return source.table("config.toml") or (inside if isinstance(inside, dict) else {})


# -- kinds -------------------------------------------------------------------------------------------------------------


def _selfplay(made: Section) -> None:
    source = made.source
    summary = source.table("summary.json") or _last_interval(source)
    made.finding = advice.selfplay_finding(summary)
    made.advice = advice.selfplay_advice(summary, made.settings)
    source.problems += [f"during the run: {problem}" for problem in summary.get("problems") or []]
    if summary:
        made.tables.append(table((), summary_rows(summary), kind="words"))
        whose = "summary.json" if "summary.json" in source.files else "the last interval"
        made.tables.append(details(f"All figures of {whose}", pairs(summary)))


def _last_interval(source: Source) -> Figures:
    """Return the figures of the last interval of a run without a summary."""
    rows = source.rows("metrics.jsonl")
    return rows[-1] if rows else {}


def _compare(made: Section) -> None:
    rows = made.source.rows("results.json")
    made.finding, made.advice = advice.compare_finding(rows), advice.compare_advice(rows)
    measured = [row for row in rows if not row.get("not_measured")]
    modes = [row for row in measured if not advice.is_variant(row)]
    variants = [row for row in measured if advice.is_variant(row)]
    if modes:
        made.tables.append(_modes_table(modes, advice.best_row(modes)))
    if variants:
        made.tables.append(details("The variants of direct, in short rounds of their own", _modes_table(variants)))
    missing = [f"{row.get('mode')}: {row['not_measured']}" for row in rows if row.get("not_measured")]
    made.source.problems += [f"not measured: {line}" for line in missing]
    made.tables.append(details("All figures of results.json", transposed(measured, "mode")))
    made.advice += advice.quiet_advice(made.head)


def _peers(made: Section) -> None:
    from grove.bench.peers.report import player_table, server_table  # these import all that is measured
    from grove.bench.peers.results import finding

    rows = made.source.rows("results.json")
    made.finding, made.advice = finding(rows), advice.peers_advice(rows)
    for title, (heads, texts) in (("Players", player_table(rows)), ("Batching servers", server_table(rows))):
        if texts:
            made.tables += [tag("h3", title), table(heads, texts)]
    made.source.problems += [
        f"not measured: {row['mode']}: {row['not_measured']}" for row in rows if row["not_measured"]
    ]
    measured = [row for row in rows if not row["not_measured"]]
    made.tables.append(details("All figures of results.json", transposed(measured, "mode")))
    made.advice += advice.quiet_advice(made.head)


def _modes_table(rows: Sequence[Figures], best: int = -1) -> Html:
    columns = compare_columns(rows)
    texts = [[_called(row), *(form(row) for form in columns.values())] for row in rows]
    return table(("mode", *columns), texts, best)


def _called(row: Figures) -> Part:
    variant = str(row.get("variant") or "").removeprefix("direct-")
    return f"{row.get('mode')} ({variant})" if variant else str(row.get("mode"))


def compare_columns(rows: Sequence[Figures]) -> dict[str, Callable[[Figures], str]]:
    """Return heading -> text of a row, for what somebody who compares modes looks at."""
    columns: dict[str, Callable[[Figures], str]] = {
        "evaluations/s": lambda row: amount(row.get("evaluations_per_second")),
        "of the peak": lambda row: percent(row.get("peak_share")),
        "vs direct": _ratio,
        "simulations/s": lambda row: amount(row.get("simulations_per_second")),
    }
    for unit in counted(rows[0]):
        columns[f"{unit}/min"] = lambda row, unit=unit: amount(row.get(f"{unit}_per_minute"))  # type: ignore[misc]
    columns |= {
        "cpu us/row": lambda row: amount(row.get("cpu_us_per_evaluation")),
        "rows/batch": lambda row: amount(row.get("mean_batch_rows")),
        "fill": lambda row: percent(row.get("fill")),
        "distinct": lambda row: percent(row.get("distinct_share")),
        "entropy": lambda row: shown(row.get("mean_visit_entropy")),
    }
    if any(row.get("ours_by_rule") for row in rows):
        columns["our rule by this"] = lambda row: shown(row.get("ours_by_rule"))
    if any(row.get("plan_days") is not None for row in rows):
        columns["days of the plan"] = _days
    return columns


def _days(row: Figures) -> str:
    numbers = {name: _float(row.get(name)) or None for name in ("plan_days", "plan_days_low", "plan_days_high")}
    middle, ends = days_texts(numbers)
    return f"{middle} ({ends})" if ends != "-" else middle


def _ratio(row: Figures) -> str:
    if row.get("ratio_to_direct") is None:
        return "-"
    low, high = row.get("ratio_low"), row.get("ratio_high")
    spread = f" ({low:.2f}..{high:.2f})" if low is not None and high is not None else ""
    return f"{row['ratio_to_direct']:.2f}x{spread}"


def _sweep(made: Section) -> None:
    files = made.source.files
    name = next((name for name in ("results.json", "sweep.json", "results.csv", "sweep.csv") if name in files), "")
    rows = inner_rows(files.get(name))
    rates = [{**row, "evaluations_per_second": _float(row.get("evaluations_per_second"))} for row in rows]
    best = best_point(rates)
    axes = [key for key in POINT if len({str(row.get(key)) for row in rows}) > 1] or list(POINT)
    if best >= 0:
        rate = amount(rates[best]["evaluations_per_second"])
        share = (
            f", {percent(_float(rows[best]['peak_share']))} of the peak" if rank_column(rates) == "peak_share" else ""
        )
        made.finding = f"{rate} evaluations/s{share} at the fastest of {len(rows)} points: {_point(rows[best], axes)}"
        made.advice = advice.sweep_advice(rates, best)
    else:
        made.finding = "No point was measured."
    # Sweeps of earlier versions say `error`.
    failures = [(row, row.get("failure") or row.get("error")) for row in rows]
    made.source.problems += [f"point {_point(row, axes)}: {why}" for row, why in failures if why]
    made.advice += advice.points_advice([(_point(row, axes), row) for row in rows])
    known = [_float(row["others_cpu"]) for row in rows if row.get("others_cpu") is not None]
    if known:
        made.advice += advice.quiet_advice({**made.head, "others_cpu": fmean(known)})
    if rows:
        made.tables += [_points_table(rows, axes, best), details("All columns", varying(rows, best))]
    made.tables.append(details(f"What else {name} says", rest(files.get(name))))


def _point(row: Figures, axes: Sequence[str]) -> str:
    """Return what tells a point from others, in words."""
    named = [f"{POINT[key]} {shown(row[key])}" for key in axes if row.get(key) is not None]
    return ", ".join(named).removeprefix("mode ")


def _points_table(rows: Sequence[Figures], axes: Sequence[str], best: int) -> Html:
    """Return the axes that vary and what somebody who sizes a pool looks at."""
    columns = compare_columns(rows)
    del columns["vs direct"]
    if any(row.get("over_subscription") is not None for row in rows):
        columns["threads a core"] = lambda row: shown(row.get("over_subscription"))
    used = {name: form for name, form in columns.items() if any(form(row) not in ("-", "") for row in rows)}
    texts = [[*(shown(row.get(key)) for key in axes), *(form(row) for form in used.values())] for row in rows]
    return table((*(POINT[key] for key in axes), *used), texts, best)


def _float(value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        return 0.0


def _limit(made: Section) -> None:
    content = made.source.table("limit.json")
    verdict = content.get("verdict")
    said = verdict if isinstance(verdict, dict) else {"text": verdict} if verdict else {}
    made.finding = shown(said.get("text") or said.get("verdict") or "limit.json holds no verdict")
    knob = said.get("knob") or content.get("knob")
    if isinstance(knob, dict):
        made.advice = [_knob_line(knob, said.get("gain") or content.get("gain"))]
    elif knob:
        made.advice = [shown(knob)]
    made.advice += advice.limit_advice(content)
    made.tables += [_bounds(content), details("Everything in limit.json", *generic(content, skip=STARTS))]


def _bounds(content: Figures) -> Html:
    """Return the lowest limit first, each with the share that the whole reaches."""
    bounds = [bound for bound in content.get("bounds") or [] if isinstance(bound, dict) and _float(bound.get("rate"))]
    whole = _float((content.get("measured") or {}).get("whole_rate"))
    rows = []
    for bound in sorted(bounds, key=lambda bound: _float(bound["rate"])):
        rate = _float(bound["rate"])
        share = percent(whole / rate) if whole and bound.get("used", True) else "-" if whole == 0 else "not in use"
        rows.append((shown(bound.get("label") or bound.get("name")), amount(rate), share))
    if whole:
        rows.insert(0, ("the whole", amount(whole), ""))
    return table(("limit", "evaluations/s", "the whole has"), rows, 0 if whole else -1) if rows else Html("")


def _knob_line(knob: Figures, gain: Any) -> str:
    parts = [f"Change next: {shown(knob.get('change') or knob.get('name'))}"]
    if knob.get("expected") is not None:
        parts.append(f"expected {amount(_float(knob['expected']))} evaluations/s")
    if isinstance(gain, int | float):
        parts.append(f"{gain:.2f} times the present rate")
    why = f" ({knob['model']})" if knob.get("model") else ""
    return f"{', '.join(parts)}{why}."


def _profile(made: Section) -> None:
    from grove.bench.profile.table import busy_warnings, interpreter_lines  # these import all that is measured

    content = made.source.table("profile.json")
    made.finding, made.advice = advice.profile_finding(content), advice.profile_advice(content)
    parts = {"workers": content.get("workers") or {}, **((content.get("server") or {}).get("threads") or {})}
    for name, part in parts.items():
        if part.get("stages"):
            made.tables += [tag("h3", "Workers" if name == "workers" else f"Server, thread {name}"), _stages(part)]
    top = (content.get("cprofile") or {}).get("top") or []
    if content.keys() >= {"interpreter", "timers", "passes", "py_spy"}:
        made.tables += [tag("h3", "Interpreter"), *(tag("p", line) for line in interpreter_lines(content))]
    if "machine_beside" in content:
        warnings = busy_warnings(content, int((made.head.get("machine") or {}).get("cores") or 1))
        made.advice += [f"{warning[0].upper()}{warning[1:]}." for warning in warnings]
    made.tables.append(details("One worker's loop by cProfile", rows_table(top)))
    rest = {key: content.get(key) for key in ("load", "passes", "timers", "interpreter", "py_spy") if content.get(key)}
    made.tables.append(details("Load, rates, interpreter", *generic(rest)))


def _stages(part: Figures) -> Html:
    heads = ("stage", "share", "seconds", "calls", "us/step", "us/row")
    keys = ("seconds", "calls", "us_per_lap", "us_per_row")
    rows = [
        [stage["stage"], percent(stage["share"]), *(shown(stage.get(key)) for key in keys)] for stage in part["stages"]
    ]
    sums = f"{shown(part.get('sum_seconds'))} s of {shown(part.get('wall_seconds'))} s by the clock"
    missing, used = part.get("unaccounted_share", 0), shown(part.get("cpu_seconds"))
    foot = f"Sum: {sums}, {missing:+.1%} not accounted for; {used} s of a processor."
    return join((table(heads, rows), tag("p", foot, class_="faint")))


def _tune(made: Section) -> None:
    content = made.source.table("results.json")
    made.finding = shown(content.get("finding") or "results.json holds no finding")
    if content.get("preset"):
        made.advice = [f"Use it as grove selfplay --preset {Path(str(content['preset'])).stem}."]
    elif content.get("best_flags") and (content.get("gain") or {}).get("better"):
        made.advice = [f"Use {content['best_flags']}."]
    trials = [row for row in content.get("trials") or [] if isinstance(row, dict)]
    trials.sort(key=lambda row: -_float(row.get("by_default")))
    made.tables += [varying(trials, 0 if trials else -1)]
    made.tables.append(details("Everything else in results.json", *generic(content, skip=("trials",))))


def _soak(made: Section) -> None:
    content = made.source.table("soak.json")
    made.finding, faults = soak_finding(content), content.get("faults") or []
    heads = ("fault", "injected", "recovered", "median s", "worst s", "measured to")
    keys = ("does", "injected", "recovered", "median_s", "worst_s", "measured_to")
    made.tables.append(table(heads, [[shown(fault.get(key)) for key in keys] for fault in faults]))
    made.source.problems += [f"not tried: {fault['does']}: {fault['skipped']}" for fault in faults if fault["skipped"]]
    check = content.get("check") or {}
    made.source.problems += [f"{name}: {shown(check[name])}" for name in LOSSES if check.get(name)]
    kept = [(name, share) for name, share in (content.get("kept") or {}).items() if share.get("mean") is not None]
    texts = [(name, *(percent(share.get(key)) for key in ("mean", "low", "high"))) for name, share in kept]
    made.tables += [tag("h3", "Kept of the undisturbed rates"), table(("rate", "mean", "95 % from", "to"), texts)]
    made.tables.append(details("Everything else in soak.json", *generic(content, skip=(*STARTS, "faults", "kept"))))


def _other(made: Section) -> None:
    """Show whatever JSON files there are."""
    made.finding = "Figures of a kind that this version does not know, as they are"
    for name, content in made.source.files.items():
        if name.endswith(".json"):
            made.tables += [tag("h3", name), *generic(content, skip=STARTS)]


_BUILDERS: dict[str, Callable[[Section], None]] = {
    "selfplay": _selfplay,
    "compare": _compare,
    "peers": _peers,
    "sweep": _sweep,
    "limit": _limit,
    "profile": _profile,
    "tune": _tune,
    "soak": _soak,
}


def provenance(made: Section) -> Html:
    """Return machine, versions, commit, command and settings."""
    head = made.head
    machine = head.get("machine")
    here = machine if isinstance(machine, dict) else {}
    if isinstance(here.get("memory_bytes"), int):
        here = {**here, "memory": f"{here['memory_bytes'] / 2**30:.1f} GiB"}
    known = {key: here[key] for key in _MACHINE if key in here}
    commit = head.get("commit")
    state = " with local changes" if head.get("dirty") else ""
    said = {
        "grove": head.get("version"),
        "commit": f"{commit}{state}" if commit else None,
        "time": head.get("time"),
        "command": " ".join(map(str, head["command"]))
        if isinstance(head.get("command"), list)
        else head.get("command"),
        "resumes": str(len(head["resumes"])) if isinstance(head.get("resumes"), list) else None,
        **known,
    }
    rows = {key: value for key, value in said.items() if value not in (None, [], "")}
    parts = [tag("h3", "Machine and versions"), pairs(rows) if rows else tag("p", "not recorded", class_="faint")]
    return join((*parts, details(f"Settings ({len(made.settings)})", pairs(made.settings)) if made.settings else ""))
