"""The command line: parses, composes, prints. Errors a user can mend end with one line and status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from grove.common.errors import GroveError

_HELP = """\
usage: grove COMMAND [flags]; grove COMMAND --help lists the flags

  selfplay        play games with search workers and one inference server
  serve           serve one network to workers in other terminals
  work            play games on a server that runs elsewhere
  keys            make the keys of a server for other machines and of its clients
  show            replay one recorded game as text
  watch           show a run in another terminal or, with --web, in a browser
  model push      give a run or server that works another model; model list, model rollback
  bench compare   play the same games direct and served, side by side
  bench sweep     measure over workers, games, max batch, delay and lanes; goes on where it stopped
  bench limit     say what binds: network, search, wire, writer or cores, and what to change next
  bench peers     play the same game beside mctx + pgx and OpenSpiel, serve the same rows beside mosec and LitServe
  bench soak      kill and stop a run for a while and check that no game is lost
  tune            search the fastest pool and server settings for a load and keep them as a preset
  profile         say where the time of workers and server goes
  data count      count the games under any folders, each once; with a mark, the new ones
  data check      check every line in full and say what is wrong with which file
  data stats      lengths, time-outs, seats, models, games a minute over time
  data repair     move what cannot be used out of the logs; --dry-run only says what
  data export     write all games to one Parquet file
  report          write one HTML page about runs and measurements
  doctor          say what this machine offers, with a remedy for what is missing
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `grove`; exits with 0, or with 2 and one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = _command(given)
    if name in ("", "-h", "--help", "help"):
        print(_HELP, end="")
        sys.exit(0)
    try:
        if name not in COMMANDS:
            raise GroveError(f"{name!r} is no command; `grove --help` lists them")
        sys.exit(COMMANDS[name](rest))
    except GroveError as error:
        print(f"grove: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # who reads our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to fail at the exit
        sys.exit(0)


def _command(given: list[str]) -> tuple[str, list[str]]:
    """Return the command's name, of two words for `bench`, `data` and `model`, and its arguments."""
    words = 2 if given[:1] in (["bench"], ["data"], ["model"]) and len(given) > 1 else 1
    return " ".join(given[:words]), given[words:]


def _selfplay(arguments: list[str]) -> int:
    if not any(word.startswith(("-h", "--help", "--evaluator")) for word in arguments):
        from grove.workers.pool.fork_server import SERVERS

        SERVERS.begin()  # importing torch takes longest of all: it goes on beside our own imports
    from grove.commands.selfplay import selfplay
    from grove.run.settings import SelfPlay, parse

    return selfplay(parse(SelfPlay, arguments, "grove selfplay"))


def _serve(arguments: list[str]) -> int:
    from grove.commands.serve import serve
    from grove.run.settings import Serve, parse

    return serve(parse(Serve, arguments, "grove serve"))


def _work(arguments: list[str]) -> int:
    from grove.commands.selfplay import work
    from grove.run.settings import Work, parse

    return work(parse(Work, arguments, "grove work"))


def _keys(arguments: list[str]) -> int:
    from grove.commands.keys import Keys, keys
    from grove.run.settings import parse

    return keys(parse(Keys, arguments, "grove keys"))


def _show(arguments: list[str]) -> int:
    from grove.commands.show import Show, show
    from grove.run.settings import parse

    return show(parse(Show, arguments, "grove show"))


def _watch(arguments: list[str]) -> int:
    from grove.commands.watch import Watch, watch
    from grove.run.settings import parse

    return watch(parse(Watch, arguments, "grove watch"))


def _compare(arguments: list[str]) -> int:
    from grove.commands.compare import compare
    from grove.run.settings import Compare, parse

    return compare(parse(Compare, arguments, "grove bench compare"))


def _sweep(arguments: list[str]) -> int:
    from grove.commands.sweep import Sweep, sweep
    from grove.run.settings import parse

    return sweep(parse(Sweep, arguments, "grove bench sweep"))


def _limit(arguments: list[str]) -> int:
    from grove.commands.limit import Limit, limit
    from grove.run.settings import parse

    return limit(parse(Limit, arguments, "grove bench limit"))


def _peers(arguments: list[str]) -> int:
    from grove.commands.peers import Peers, peers
    from grove.run.settings import parse

    return peers(parse(Peers, arguments, "grove bench peers"))


def _soak(arguments: list[str]) -> int:
    from grove.commands.soak import Soak, soak
    from grove.run.settings import parse

    return soak(parse(Soak, arguments, "grove bench soak"))


def _tune(arguments: list[str]) -> int:
    from grove.commands.tune import Tune, tune
    from grove.run.settings import parse

    return tune(parse(Tune, arguments, "grove tune"))


def _profile(arguments: list[str]) -> int:
    from grove.commands.profile import Profile, profile
    from grove.run.settings import parse

    return profile(parse(Profile, arguments, "grove profile"))


def _report(arguments: list[str]) -> int:
    from grove.commands.report import Report, report
    from grove.run.settings import parse

    return report(parse(Report, arguments, "grove report"))


def _data_count(arguments: list[str]) -> int:
    from grove.commands.data import Count, count
    from grove.run.settings import parse

    return count(parse(Count, arguments, "grove data count"))


def _data_check(arguments: list[str]) -> int:
    from grove.commands.data import Check, check
    from grove.run.settings import parse

    return check(parse(Check, arguments, "grove data check"))


def _data_stats(arguments: list[str]) -> int:
    from grove.commands.data import Stats, stats
    from grove.run.settings import parse

    return stats(parse(Stats, arguments, "grove data stats"))


def _data_repair(arguments: list[str]) -> int:
    from grove.commands.data import Repair, repair
    from grove.run.settings import parse

    return repair(parse(Repair, arguments, "grove data repair"))


def _data_export(arguments: list[str]) -> int:
    from grove.commands.data import Export, export_games
    from grove.run.settings import parse

    return export_games(parse(Export, arguments, "grove data export"))


def _push(arguments: list[str]) -> int:
    from grove.commands.model import Push, push
    from grove.run.settings import parse

    return push(parse(Push, arguments, "grove model push"))


def _list_models(arguments: list[str]) -> int:
    from grove.commands.model import List, list_models
    from grove.run.settings import parse

    return list_models(parse(List, arguments, "grove model list"))


def _rollback(arguments: list[str]) -> int:
    from grove.commands.model import Rollback, rollback
    from grove.run.settings import parse

    return rollback(parse(Rollback, arguments, "grove model rollback"))


def _doctor(arguments: list[str]) -> int:
    from grove.commands import doctor

    doctor.render(doctor.run_checks(), sys.stdout)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "selfplay": _selfplay,
    "serve": _serve,
    "work": _work,
    "keys": _keys,
    "show": _show,
    "watch": _watch,
    "model push": _push,
    "model list": _list_models,
    "model rollback": _rollback,
    "bench compare": _compare,
    "bench sweep": _sweep,
    "bench limit": _limit,
    "bench peers": _peers,
    "bench soak": _soak,
    "tune": _tune,
    "profile": _profile,
    "data count": _data_count,
    "data check": _data_check,
    "data stats": _data_stats,
    "data repair": _data_repair,
    "data export": _data_export,
    "report": _report,
    "doctor": _doctor,
}
