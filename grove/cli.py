"""The command line: finds the command, parses, runs. Errors a user can mend end with one line and status 2."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from grove.common.errors import GroveError


class Command(NamedTuple):
    """Where a command lives, and what its help shows."""

    about: str
    module: str
    settings: str
    """Class of its settings in `module`."""
    run: str
    """Function in `module` that takes them and returns the exit status."""
    usual: str = ""
    """Flags that most people use, shown before the advanced ones. Empty: all are."""
    examples: tuple[str, ...] = ()


_LOAD = "preset game simulations workers games_per_worker pool network model device out"
COMMANDS = {
    "selfplay": Command(
        "play games with search workers and one inference server",
        *("grove.commands.selfplay", "SelfPlay", "selfplay"),
        "game games simulations workers pool network model device out seed preset config",
        (
            "--game connect_four --games 200",
            "--game hex:size=7 --games 5000 --out runs/hex7",
            "--game my_game.py:MyGame --network my_net.py:MyNet",
            "--preset blob-medium --games 2000",
        ),
    ),
    "serve": Command(
        "serve one network to workers in other terminals",
        *("grove.commands.serve", "Serve", "serve"),
        "game bind keys network model device watch_models metrics_port",
        ("--game hex:size=7", "--game hex:size=7 --bind tcp://0.0.0.0:7447 --keys keys"),
    ),
    "work": Command(
        "play games on a server that runs elsewhere",
        *("grove.commands.selfplay", "Work", "work"),
        "connect keys workers games_per_worker games simulations out indices",
        ("--connect tcp://127.0.0.1:7447 --games 1000 --out runs/far",),
    ),
    "keys": Command(
        "make keys for a server of other machines and its clients",
        *("grove.commands.keys", "Keys", "keys"),
        examples=("keys --clients anna,ben",),
    ),
    "show": Command(
        "replay one recorded game as text", *("grove.commands.show", "Show", "show"), examples=("runs/first --game 3",)
    ),
    "watch": Command(
        "show a run in another terminal or, with --web, in a browser",
        *("grove.commands.watch", "Watch", "watch"),
        examples=("runs/first", "runs/first --web"),
    ),
    "model push": Command(
        "give a run or server that works another model",
        *("grove.commands.model", "Push", "push"),
        examples=("net.safetensors runs/first",),
    ),
    "model list": Command(
        "show which models it serves and has", *(
            "grove.commands.model", "List", "list_models"), examples=("runs/first",
        )
    ),
    "model rollback": Command(
        "serve the model before again", *("grove.commands.model", "Rollback", "rollback"), examples=("runs/first",)
    ),
    "model convert": Command(
        "make a model file of a PyTorch checkpoint",
        *("grove.commands.convert", "Convert", "convert"),
        examples=("net.pt --network my_net.py:MyNet --game hex:size=7",),
    ),
    "bench compare": Command(
        "play the same games direct and served, side by side",
        *("grove.commands.bench", "Compare", "compare"),
        f"seconds modes {_LOAD}",
        ("--game connect_four --seconds 120 --out runs/compare",),
    ),
    "bench sweep": Command(
        "measure over workers, games, batch size, delay and lanes",
        *("grove.commands.sweep", "Sweep", "sweep"),
        f"quick shape modes over_workers over_games_per_worker over_max_batch {_LOAD}",
        ("--game hex:size=7 --quick", "--game hex:size=7 --over-workers 1..32 --out runs/sweep"),
    ),
    "bench limit": Command(
        "say what binds: network, search, wire, writer or cores",
        *("grove.commands.bench", "Limit", "limit"),
        f"seconds {_LOAD}",
        ("--game connect_four --out runs/limit",),
    ),
    "bench peers": Command(
        "play the same game beside other projects",
        *("grove.commands.bench", "Peers", "peers"),
        f"seconds peers {_LOAD}",
        ("--game connect_four --seconds 240",),
    ),
    "bench soak": Command(
        "harm a run for a while and check that no game is lost",
        *("grove.commands.bench", "Soak", "soak"),
        f"minutes every faults {_LOAD}",
        ("--minutes 3",),
    ),
    "tune": Command(
        "search the fastest settings for a load, keep them as a preset",
        *("grove.commands.tune", "Tune", "tune"),
        f"minutes name knobs {_LOAD}",
        ("--game connect_four --minutes 5",),
    ),
    "profile": Command(
        "say where the time of workers and server goes",
        *("grove.commands.bench", "Profile", "profile"),
        f"seconds {_LOAD}",
        ("--game hex:size=7 --seconds 20",),
    ),
    "data count": Command(
        "count the games under any folders, or those since a mark",
        *("grove.commands.data", "Count", "count"),
        examples=("runs", "runs --since trained.mark --threshold 5000"),
    ),
    "data check": Command(
        "check every line in full, say what is wrong where",
        *("grove.commands.data", "Check", "check"),
        examples=("runs",),
    ),
    "data stats": Command(
        "lengths, time-outs, seats, models, games a minute over time",
        *("grove.commands.data", "Stats", "stats"),
        examples=("runs/first",),
    ),
    "data repair": Command(
        "move what cannot be used out of the logs",
        *("grove.commands.data", "Repair", "repair"),
        examples=("runs --dry-run",),
    ),
    "data export": Command(
        "write all games to one Parquet file",
        *("grove.commands.data", "Export", "export_games"),
        examples=("runs --out games.parquet",),
    ),
    "report": Command(
        "write one HTML page about runs and measurements",
        *("grove.commands.report", "Report", "report"),
        examples=("runs/first runs/compare --out runs/report",),
    ),
    "doctor": Command(
        "say what this machine offers and lacks", "grove.commands.doctor", "Doctor", "doctor"
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `grove`; exits with the command's status, or with 2 and one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = 2 if given[:1] in (["bench"], ["data"], ["model"]) and len(given) > 1 else 1
    try:
        sys.exit(_run(" ".join(given[:words]), given[words:]))
    except GroveError as error:
        print(f"grove: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # who reads our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to fail at the exit
        sys.exit(0)


def _run(name: str, flags: list[str]) -> int:
    if name in ("", "-h", "--help", "help"):
        print(_overview(), end="")
        return 0
    if name in ("-V", "--version"):
        from importlib.metadata import version

        print(f"grove {version('grove-selfplay')}")
        return 0
    if name not in COMMANDS:
        raise GroveError(f"{name!r} is no command; `grove --help` lists them")
    command, wants_help = COMMANDS[name], bool({"-h", "--help"} & set(flags))
    if name == "selfplay" and not wants_help and not any(flag.startswith("--evaluator") for flag in flags):
        from grove.workers.pool.fork_server import SERVERS

        SERVERS.begin()  # importing torch takes longest of all: it goes on beside our own imports
    module = importlib.import_module(command.module)
    kind: type[Any] = getattr(module, command.settings)
    if wants_help:
        from grove.help import help_text

        print(help_text(kind, f"grove {name}", command.usual.split(), command.examples), end="")
        return 0
    from grove.run.settings import parse

    status: int = getattr(module, command.run)(parse(kind, flags, f"grove {name}"))
    return status


def _overview() -> str:
    lines = [f"  {name:15} {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: grove COMMAND [flags]; grove COMMAND --help lists the flags", "", *lines, ""])
