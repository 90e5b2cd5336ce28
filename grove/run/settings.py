"""What the user asks for: the commands' settings, composed of those beside the code they set.

Later wins: defaults, `--preset NAME`, `--config FILE.toml`, flags. Flags and keys of the files are the same flat,
unique names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

from grove.common.errors import SettingError
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.settings import MetricsSettings, ModelSettings, ServerSettings
from grove.mcts.settings import SearchSettings
from grove.run.preset import read_preset
from grove.workers.pool.settings import PoolSettings

T = TypeVar("T")
_FLAT = (tyro.conf.OmitArgPrefixes,)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Which games, and where they go."""

    game: str = "connect_four"
    """`connect_four`, `hex:size=7`, `blob:players=4,cards=5` (one round), `blob:players=5,match=7` (a match), or your
    own as `PATH/FILE.py:Class`, `package.module:Class`."""
    games: int = 200
    """Games the folder shall hold in the end: exactly the indices 0..games-1."""
    seed: int | None = None
    """Seed of all games' randomness; drawn and recorded when not given."""
    out: str | None = None
    """Run folder; the same command on it resumes. By default a new one under runs/."""
    fsync: Literal["game", "interval", "off"] = "interval"
    """When finished games are forced to the disk. A killed process loses none either way; a power cut may cost none
    (`game`), those of the last 6 seconds (`interval`: a sync costs milliseconds), or what the system had not written
    yet (`off`)."""
    drain: bool = False
    """At the first Ctrl-C or SIGTERM play the games in progress to their ends; without it they are dropped, and played
    when the run is resumed."""
    preset: str | None = None
    """Named load: blob-diagnostic, blob-light, blob-medium, blob-heavy, or one of your own under
    ~/.config/grove/presets. What it says of other commands is left out, because it describes a load."""
    config: str | None = None
    """TOML file with any of these settings, under the names of their flags."""

    def __post_init__(self) -> None:
        if not 1 <= self.games <= 1 << 40:
            raise SettingError.of("games", self.games, "it must be at least 1", "choose how many games to play")
        if self.seed is not None and not 0 <= self.seed < 1 << 63:
            raise SettingError.of("seed", self.seed, "it must lie in 0..2**63-1", "choose such a number")


@dataclass(frozen=True, kw_only=True)
class SelfPlay:
    """Play games with search workers and one inference server; see docs/architecture.md."""

    run: RunSettings = field(default_factory=RunSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)


@dataclass(frozen=True, kw_only=True)
class Load:
    """The load that a measuring command plays; each command adds what it measures."""

    game: str = "connect_four"
    """Game to play."""
    out: str | None = None
    """New or empty folder for what is found. By default a new one under runs/."""
    seed: int = 0
    """Seed of all games' randomness."""
    preset: str | None = None
    """Named load: blob-diagnostic, blob-light, blob-medium, blob-heavy, or one of your own under
    ~/.config/grove/presets. What it says of other commands is left out, because it describes a load."""
    config: str | None = None
    """TOML file with any of these settings."""
    search: SearchSettings = field(default_factory=SearchSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    server: ServerSettings = field(default_factory=ServerSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 63:
            raise SettingError.of("seed", self.seed, "it must lie in 0..2**63-1", "choose such a number")


@dataclass(frozen=True, kw_only=True)
class Compare(Load):
    """Play the same games in several modes, in interleaved slices of one run, and compare their rates. The modes say
    which pool and which evaluator are used."""

    seconds: float = 120.0
    """Seconds of measuring, over all modes; starting and warming them comes on top."""
    modes: str = "direct,local,server-thread,server-process"
    """Comma-separated modes to compare: direct, local, server-thread, server-process; python-threads, one-position,
    always-waited (together `failed`: designs that were tried and given up, as evidence); full-only, time-out-only,
    drain, 1ms, adaptive-wait (together `fixed`: batching rules of other programs, in worker processes); or `all`."""
    out: str | None = None
    """New or empty folder for results.json, run.json, the chart and the games. By default a new one under runs/."""
    probe_limit: float = 0.1
    """Relative change of the burn probe from which a round is dropped; a tenth shows a lost core or clock."""
    plan: str | None = None
    """Training plan as ITERATIONSxGAMES, such as 500x10000: the days its games would take in each mode are added."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.seconds <= 1e6:
            raise SettingError.of("seconds", self.seconds, "it must lie in 1..1000000", "choose how long to measure")
        if not 0 < self.probe_limit <= 1:
            raise SettingError.of("probe-limit", self.probe_limit, "it must lie in 0..1", "choose a share such as 0.1")


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve one network to workers in other terminals; end with Ctrl-C."""

    game: str = "connect_four"
    """Game whose rows are served."""
    bind: str = "tcp://127.0.0.1:7447"
    """Where to listen: ipc://PATH, tcp://127.0.0.1:PORT, or, with --keys, tcp://ADDRESS:PORT."""
    keys: str | None = None
    """Folder of `grove keys DIR`: only clients in its list are let in. None: whoever reaches the endpoint."""
    model_slot: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Further model to serve, as NAME=FILE, of the same architecture; may be given several times."""
    preset: str | None = None
    """Named load: blob-diagnostic, blob-light, blob-medium, blob-heavy, or one of your own under
    ~/.config/grove/presets. What it says of other commands is left out, because it describes a load."""
    config: str | None = None
    """TOML file with any of these settings."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Play games with worker processes that use a server elsewhere (`grove serve`)."""

    connect: str = "tcp://127.0.0.1:7447"
    """Where the server listens; it says which game it serves."""
    keys: str | None = None
    """Folder of one client's keys, DIR/clients/NAME of `grove keys DIR`, for a server that asks for them."""
    workers: int = 0
    """Worker processes; 0 = one per core."""
    games_per_worker: int = 64
    """Games each worker plays at once."""
    groups: int = 0
    """Groups a worker's games are split into; 0 = 4, or 1 with many more workers than cores."""
    games: int = 200
    """Games the folder shall hold in the end."""
    indices: str | None = None
    """Play the game indices A:B (B not included) instead of 0..games-1, when several pools share one plan."""
    seed: int | None = None
    """Seed of all games' randomness; drawn and recorded when not given."""
    out: str | None = None
    """Run folder; the same command on it resumes. By default a new one under runs/."""
    fsync: Literal["game", "interval", "off"] = "interval"
    """When finished games are forced to the disk. A killed process loses none either way; a power cut may cost none
    (`game`), those of the last 6 seconds (`interval`: a sync costs milliseconds), or what the system had not written
    yet (`off`)."""
    drain: bool = False
    """At the first Ctrl-C or SIGTERM play the games in progress to their ends; without it they are dropped, and played
    when the run is resumed."""
    preset: str | None = None
    """Named load: blob-diagnostic, blob-light, blob-medium, blob-heavy, or one of your own under
    ~/.config/grove/presets. What it says of other commands is left out, because it describes a load."""
    config: str | None = None
    """TOML file with any of these settings."""
    search: SearchSettings = field(default_factory=SearchSettings)


def parse(kind: type[T], arguments: Sequence[str], program: str) -> T:
    """Return the settings of one command from its preset, config file and flags.

    Raises SettingError, one line, for anything the user can mend; SystemExit(0) after printing help.
    """
    content = _file_content(kind, arguments)
    extra: dict[str, Any] = {"default": _fill(kind, content)} if content else {}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            settings: T = tyro.cli(kind, args=list(arguments), prog=program, config=_FLAT, **extra)
            return settings
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise SettingError(_one_line(said.getvalue(), program)) from None


def flatten(settings: Any) -> dict[str, Any]:
    """Return all settings as one flat dictionary of plain values, None left out."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value)
        elif value is not None:
            flat[item.name] = value
    return flat


def _option(arguments: Sequence[str], name: str) -> str | None:
    """Return what the flag `name` is given as, for flags that matter before the others are read."""
    for flag, value in zip(arguments, [*arguments[1:], None], strict=False):
        if flag == name:
            return value
        if flag.startswith(f"{name}="):
            return flag.partition("=")[2]
    return None


def _file_content(kind: type[Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the config file over those of the preset, which may be named in either place."""
    path = _option(arguments, "--config")
    content = {} if path is None else _read_config(kind, path)
    name = _option(arguments, "--preset")
    name = content.get("preset") if name is None else name
    return content if name is None else {**_of_preset(kind, str(name)), **content}


def _read_config(kind: type[Any], path: str) -> dict[str, Any]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError.of("config", path, f"it cannot be read ({error})", "give a readable TOML file") from None
    unused = content.keys() - _names(kind)
    if unused:
        remedy = _did_you_mean(min(unused), _names(kind)) or "see the command's --help for all names"
        raise SettingError.of("config", path, f"{min(unused)!r} is no setting of this command", remedy)
    return content


def _of_preset(kind: type[Any], name: str) -> dict[str, Any]:
    """Return what preset `name` sets of this command; only what no command has is refused."""
    content = read_preset(name)
    everything = {known for command in (SelfPlay, Compare, Serve, Work, kind) for known in _names(command)}
    if unused := content.keys() - everything:
        remedy = _did_you_mean(min(unused), everything) or "correct the file"
        raise SettingError.of("preset", name, f"{min(unused)!r} is no setting of any command", remedy)
    return {key: value for key, value in content.items() if key in _names(kind)}


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


def _fill(kind: type[T], content: dict[str, Any]) -> T:
    """Return an instance of `kind` with what `content` sets."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.default_factory is not dataclasses.MISSING:
            values[item.name] = _fill(item.default_factory, content)  # type: ignore[arg-type]
        elif item.name in content:
            if isinstance(item.default, tuple) and isinstance(content[item.name], list):
                content = {**content, item.name: tuple(content[item.name])}
            _check_type(item.name, content[item.name], item.default)
            _check_choice(item.name, content[item.name], get_type_hints(kind)[item.name])
            values[item.name] = content[item.name]
    return kind(**values)


def _check_type(name: str, value: Any, default: Any) -> None:
    accepted: tuple[type, ...] = (int, str) if default is None else (type(default),)
    accepted = (int, float) if accepted == (float,) else accepted
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        wanted = " or ".join(kind.__name__ for kind in accepted)
        raise SettingError.of(name, value, f"the config file must give it as {wanted}", "correct the file")


def _check_choice(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise SettingError.of(name, value, f"it must be {' or '.join(get_args(hint))}", "correct the file")


def _names(kind: Any) -> list[str]:
    """Return the names of all settings of a command."""
    parts = [item.default_factory for item in dataclasses.fields(kind)]
    own = [item.name for item in dataclasses.fields(kind) if item.default_factory is dataclasses.MISSING]
    return sum((_names(part) for part in parts if part is not dataclasses.MISSING), own)


def _one_line(box: str, program: str) -> str:
    """Return the message inside the parser's box (drawn in Unicode or ASCII) as one line."""
    lines: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip().strip("│╭╮╰╯|+").strip()
        if not set(text) <= set("─-"):
            lines.append(text)
        elif lines:
            break
    return f"{' '.join(lines).rstrip('.')}; see `{program} --help`"
