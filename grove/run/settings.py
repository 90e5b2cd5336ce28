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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import tyro

from grove.common.errors import SettingError
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.settings import MetricsSettings, ModelSettings, ServerSettings
from grove.mcts.settings import SearchSettings
from grove.run.preset import read_preset
from grove.workers.pool.settings import PoolSettings

T = TypeVar("T")
_GONE = {
    "swap": "a new model takes over with the next rows, and every move names the model that answered it",
    "max_clients_mb": "--max-clients and --max-window bound what clients may hold",
    "ping_interval_ms": "--idle-after-ms bounds how long batches wait for a silent client",
}
"""Settings of version 0.1: as flags they are refused with a word, in files of that time they are left out."""
_FLAT = (tyro.conf.OmitArgPrefixes,)
_SEEDS = (1 << 63) - 1
_MEASURING = {"seconds", "modes", "plan", "probe_limit"}
"""Settings of measuring commands that a preset may hold."""


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """Where settings come from beside the flags."""

    preset: str | None = None
    """Named load: blob-diagnostic, blob-light, blob-medium, blob-heavy, or one of your own under
    ~/.config/grove/presets. What it says of other commands is left out, because it describes a load."""
    config: str | None = None
    """TOML file with any of these settings, under the names of their flags."""


@dataclass(frozen=True, kw_only=True)
class FolderSettings(FileSettings):
    """How many games, and where they go."""

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

    def __post_init__(self) -> None:
        check_range("games", self.games, 1, 1 << 40)
        if self.seed is not None:
            check_range("seed", self.seed, 0, _SEEDS)


@dataclass(frozen=True, kw_only=True)
class RunSettings(FolderSettings):
    """Which games, and where they go."""

    game: str = "connect_four"
    """`connect_four`, `hex:size=7`, `blob:players=4,cards=5` (one round), `blob:players=5,match=7` (a match), or your
    own as `PATH/FILE.py:Class` or `package.module:Class`."""


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
class Serve(FileSettings):
    """Serve one network to workers in other terminals; end with Ctrl-C."""

    game: str = "connect_four"
    """Game whose rows are served."""
    bind: str = "tcp://127.0.0.1:7447"
    """Where to listen: ipc://PATH, tcp://127.0.0.1:PORT, or, with --keys, tcp://ADDRESS:PORT."""
    keys: str | None = None
    """Folder of `grove keys DIR`: only clients in its list are let in. None: whoever reaches the endpoint."""
    model_slot: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Further model to serve, as NAME=FILE, of the same architecture; may be given several times."""
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
    indices: str | None = None
    """Play the game indices A:B (B not included) instead of 0..games-1, when several pools share one plan."""
    run: FolderSettings = field(default_factory=FolderSettings)
    search: SearchSettings = field(default_factory=SearchSettings)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise SettingError unless `value` lies in `low`..`high`."""
    if not low <= value <= high:
        flag = name.replace("_", "-")
        remedy = f"choose --{flag} in that range"
        raise SettingError.of(flag, value, f"it must lie in {_text(low)}..{_text(high)}", remedy)


def _text(number: float) -> str:
    return "2**63-1" if number == _SEEDS else f"{number:.0f}" if number == int(number) else f"{number:g}"


def parse(kind: type[T], arguments: Sequence[str], program: str) -> T:
    """Return the settings of one command from its preset, config file and flags.

    Raises SettingError, one line, for anything the user can mend.
    """
    for flag in arguments:
        name = flag.partition("=")[0].removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in _GONE:
            raise SettingError(f"{flag.partition('=')[0]} is gone: {_GONE[name]}")
    files = _flags_of_files(kind, arguments)
    for source, flags in files.items():  # each alone, so that an error says where it is
        if flags:
            _parse(kind, flags, program, f"{source}: ")
    return _parse(kind, [*(flag for flags in files.values() for flag in flags), *arguments], program)


def _parse(kind: type[T], flags: Sequence[str], program: str, source: str = "") -> T:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            settings: T = tyro.cli(kind, args=list(flags), prog=program, config=_FLAT)
            return settings
    except SystemExit:
        raise SettingError(f"{source}{_one_line(said.getvalue())}; see `{program} --help`") from None
    except SettingError as error:
        raise SettingError(f"{source}{error}") from None


def settings_of(kind: type[T], values: Mapping[str, Any], program: str) -> T:
    """Return the settings that flags of these names and values would give; None: not given. Raises SettingError."""
    hints = setting_hints(kind)
    for name, value in values.items():
        _refuse_unknown(name, str(value), [name], hints, program)
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return parse(kind, _as_flags({name: value for name, value in given.items() if value is not None}, hints), program)


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


# -- files -------------------------------------------------------------------------------------------------------------


def _flags_of_files(kind: type[Any], arguments: Sequence[str]) -> dict[str, list[str]]:
    """Return what preset and config file set, as the flags that would; either may name the preset."""
    path, name = _option(arguments, "--config"), _option(arguments, "--preset")
    content = {} if path is None else _read_config(kind, path)
    name = content.get("preset") if name is None else name
    named = {} if name is None else _of_preset(kind, str(name))
    hints = setting_hints(kind)
    return {f"preset {name}": _as_flags(named, hints), str(path): _as_flags(content, hints)}


def _option(arguments: Sequence[str], name: str) -> str | None:
    """Return what the flag `name` is given as, for flags that matter before the others are read."""
    for flag, value in zip(arguments, [*arguments[1:], None], strict=False):
        if flag == name:
            return value
        if flag.startswith(f"{name}="):
            return flag.partition("=")[2]
    return None


def _as_flags(content: dict[str, Any], hints: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in content.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool) and hints[name] is bool:
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}={item}" for item in (value if isinstance(value, list) else [value])]
    return flags


def _read_config(kind: type[Any], path: str) -> dict[str, Any]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        content = {key: value for key, value in content.items() if key not in _GONE}
    except (OSError, ValueError) as error:
        raise SettingError.of("config", path, f"it cannot be read ({error})", "give a readable TOML file") from None
    _refuse_unknown("config", path, content, setting_hints(kind), "this command")
    return content


def _of_preset(kind: type[Any], name: str) -> dict[str, Any]:
    """Return what preset `name` sets of this command; only what no command has is refused."""
    content, own = {key: value for key, value in read_preset(name).items() if key not in _GONE}, setting_hints(kind)
    known = {name for command in (SelfPlay, Serve, Work, kind) for name in setting_hints(command)}
    _refuse_unknown("preset", name, content, known | _MEASURING, "any command")
    return {key: value for key, value in content.items() if key in own}


def _refuse_unknown(setting: str, value: str, content: Iterable[str], known: Collection[str], whose: str) -> None:
    for name in sorted(set(content) - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {close[0]}?" if close else "see the command's --help for all names"
        raise SettingError.of(setting, value, f"{name!r} is no setting of {whose}", remedy)


def setting_hints(kind: Any) -> dict[str, Any]:
    """Return the names of all settings of a command, and their types."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        found |= setting_hints(hint) if dataclasses.is_dataclass(hint) else {name: hint}
    return found


def _one_line(box: str) -> str:
    """Return the message inside the parser's box (drawn in Unicode or ASCII) as one line."""
    lines: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip().strip("│╭╮╰╯|+").strip()
        if not set(text) <= set("─-"):
            lines.append(text)
        elif lines:
            break
    return " ".join(lines).rstrip(".")
