"""What `grove data` prints for people: lines of text made of the values that --json prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from grove.common.words import plural

_MOST = 10
"""Files or lines of one sort that are listed; --json lists all files."""


def readable(text: str) -> str:
    """Return `text` with whatever could move a terminal's cursor, or not be encoded, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count_lines(content: Mapping[str, Any], since: str | None) -> list[str]:
    """Return one line a kind of game, or why there is none."""
    lines = [f"{spec}: {_spec(table)}" for spec, table in content["games"].items()]
    if not lines:
        lines.append(f"no games in {plural(content['logs'], 'logs')}")
    if since is not None and not content["mark_found"]:
        lines.append(f"there is no mark {since} yet, so all games are new")
    return lines


def _spec(table: Mapping[str, Any]) -> str:
    new = ""
    if "new" in table:
        wanted = f"/{table['threshold']:,}" if "threshold" in table else ""
        new = f" (+{table['new']:,}{wanted})"
    doubled = [f"{table[kind]:,} {kind}" for kind in ("duplicates", "copies") if table[kind]]
    left_out = f"; left out: {', '.join(doubled)}" if doubled else ""
    return f"{plural(table['games'], 'games')}{new} in {plural(table['logs'], 'logs')}{left_out}"


def finding_lines(content: Mapping[str, Any]) -> list[str]:
    """Return what was found beside games, the worst first."""
    damaged = [line for log in content.get("damaged", ()) for line in _damaged(log)]
    written = [f"{path}: its last line is not complete yet" for path in content.get("being_written", ())]
    refused = [f"{item['path']}:{item['line']}: {item['why']}" for item in content.get("refused", ())]
    listed = {
        "could not be read": _named(content, "unreadable", "why"),
        "damaged": damaged,
        "refused": refused,
        "to be repaired": _named(content, "repairs", "text"),
        "empty": list(content.get("empty", ())),
        "being written": written,
        "other .jsonl": _named(content, "other", "first"),
    }
    return [line for title, items in listed.items() if items for line in _listed(title, items)]


def _named(content: Mapping[str, Any], name: str, what: str) -> list[str]:
    return [f"{item['path']}: {item[what]}" for item in content.get(name, ())]


def _damaged(log: Mapping[str, Any]) -> Iterator[str]:
    yield f"{log['path']}: {', '.join(f'{count:,} {kind}' for kind, count in log['lines'].items())}"
    yield from (f"  line {example['line']}: {example['why']}" for example in log["examples"])


def _listed(title: str, items: Sequence[str]) -> list[str]:
    more = [f"  and {len(items) - _MOST:,} more"] if len(items) > _MOST else []
    return [f"{title}:", *(f"  {item}" for item in items[:_MOST]), *more]


# -- statistics ------------------------------------------------------------------------------------------------------


def stats_lines(content: Mapping[str, Any]) -> list[str]:
    """Return the statistics, kind by kind and run by run."""
    lines = [line for spec, table in content["games"].items() for line in _spec_lines(spec, table)]
    if not lines:
        lines.append(f"no games in {plural(content['logs'], 'logs')}")
    for run in content["runs"]:
        lines += _run_lines(run)
    return [*lines, *content["caps_unknown"]]


def _spec_lines(spec: str, table: Mapping[str, Any]) -> Iterator[str]:
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(table["statuses"].items()))
    yield f"{spec}: {plural(table['games'], 'games')} ({statuses})"
    lengths = table["lengths"]
    spread = ", ".join(f"{name} {lengths[f'p{name}']}" for name in (10, 25, 50, 75, 90))
    yield f"  moves: mean {lengths['mean']:.1f}, {lengths['p0']} to {lengths['p100']}; percentiles: {spread}"
    yield f"  timed out: {_timeouts(table['timeouts'])}"
    for label, seats in table["seats"].items():
        yield from _seat_lines(label, seats)
    for model in table["models"][:_MOST]:
        yield f"  model {model['model']}: {model['moves']:,} moves in {plural(model['games'], 'games')}"
    if len(table["models"]) > _MOST:
        yield f"  and {len(table['models']) - _MOST:,} more models"
    if table["joint_moves"]:
        yield f"  and {plural(table['joint_moves'], 'moves')} by more than one model"
    if table["mixed_games"]:
        yield f"  {plural(table['mixed_games'], 'games')} by more than one model"


def _timeouts(table: Mapping[str, Any]) -> str:
    known = [f"{cap['moves']} moves ({cap['source']}; {plural(cap['games'], 'games')})" for cap in table["caps"]]
    caps = ", ".join(known)
    unknown = table["games_of_unknown_cap"]
    caps += f"{'; ' if caps else ''}not known for {plural(unknown, 'games')}" if unknown else ""
    return f"{table['games']:,}, {_share(table['share'], table['share_95'])}; cap: {caps}"


def _seat_lines(label: str, table: Mapping[str, Any]) -> Iterator[str]:
    title = f"{label}, " if label else ""
    if len(table["seats"]) == 1:  # nobody to win against
        yield f"  {title}one player: {table['timeouts']:,} timed out{_utility(table['seats'][0])}"
        return
    yield (
        f"  {title}{table['decided']:,} decided, {table['draws']:,} drawn, {table['timeouts']:,} timed out"
        " (a seat's share is of the decided ones, with its 95 % interval)"
    )
    for seat in table["seats"]:
        share = _share(seat["share"], seat["share_95"])
        yield f"    seat {seat['seat']}: won {seat['wins']:,}, {share}{_utility(seat)}"
    if table["seats"]:
        yield f"    equal seats would win {100 * table['fair_share']:.1f} % each"


def _utility(seat: Mapping[str, Any]) -> str:
    if seat["mean_utility"] is None:
        return ""
    interval = seat["mean_utility_95"]
    return f", mean utility {seat['mean_utility']:+.3f}" + (
        f" ({interval[0]:+.3f}..{interval[1]:+.3f})" if interval else ""
    )


def _share(share: float | None, interval: Sequence[float] | None) -> str:
    if share is None or interval is None:
        return "no share"
    return f"{100 * share:.1f} % ({100 * interval[0]:.1f}..{100 * interval[1]:.1f})"


def _run_lines(run: Mapping[str, Any]) -> Iterator[str]:
    rates = run["games_per_minute_by_worker"]
    yield f"{run['folder']}: games/min of each worker: {_rates(rates)}"
    slices = run["slices"]
    every = -(-len(slices) // _MOST)
    for part in slices[:: every or 1]:
        when = datetime.fromtimestamp(part["begin"]).astimezone().isoformat(timespec="seconds")
        yield f"  {when}: {_rates(part['games_per_minute_by_worker'])}"
    yield from (f"  {problem}" for problem in run["problems"])


def _rates(rates: Sequence[float | None]) -> str:
    known = [rate for rate in rates if rate is not None]
    if not known:
        return "not known"
    if len(rates) <= 8:
        return " ".join("-" if rate is None else f"{rate:.4g}" for rate in rates)
    return f"{len(known)} workers, {min(known):.4g} to {max(known):.4g}, mean {sum(known) / len(known):.4g}"
