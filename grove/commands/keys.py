"""`grove keys DIR`: key pairs for a server and its clients, and the list of clients that are let in."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from zmq.auth import create_certificates

from grove.common.errors import SettingError
from grove.inference_server.channels.keys import ALLOWED, CLIENT, CLIENTS, PUBLIC, SERVER

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Make keys for `grove serve --keys DIR` and `grove work --keys DIR/clients/NAME`; what is there stays."""

    folder: tyro.conf.Positional[str]
    """Folder of the keys; made when it is not there."""
    clients: str = "worker"
    """Comma-separated names; each gets a key pair and is let in. Workers may share one."""

    def __post_init__(self) -> None:
        for name in self.names:
            if not _NAME.fullmatch(name):
                why = "a name has at most 64 letters, digits, dots, dashes and underscores"
                raise SettingError.of("clients", name, why, "choose such a name")

    @property
    def names(self) -> list[str]:
        """The clients' names."""
        return self.clients.split(",")


def keys(settings: Keys) -> int:
    """Make the keys that are missing; returns the exit status."""
    folder = Path(settings.folder)
    try:
        for part in (folder, folder / ALLOWED, folder / CLIENTS):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / (SERVER + PUBLIC)).exists():
            _make_server(folder)
        for name in settings.names:
            _make_client(folder, name)
    except OSError as error:
        raise SettingError.of("folder", settings.folder, str(error.strerror), "choose one you can write") from None
    print(f"server:  grove serve --bind tcp://0.0.0.0:7447 --keys {folder}")
    print(f"client:  grove work --connect tcp://HOST:7447 --keys {folder / CLIENTS / settings.names[0]}")
    print(f"Copy a client's folder to its machine over a safe way; delete {folder / ALLOWED}/NAME.key to shut it out.")
    return 0


def _make_server(folder: Path) -> None:
    made = _pair(folder, SERVER)
    for file in sorted(made.iterdir(), reverse=True):  # the public key last: its presence says that both are there
        file.rename(folder / file.name)
    made.rmdir()


def _make_client(folder: Path, name: str) -> None:
    home = folder / CLIENTS / name
    if home.exists():
        state = "is let in" if (folder / ALLOWED / (name + PUBLIC)).exists() else "was shut out"
        print(f"{name} has keys and {state}")
        return
    made = _pair(folder, CLIENT)
    shutil.copyfile(folder / (SERVER + PUBLIC), made / (SERVER + PUBLIC))
    shutil.copyfile(made / (CLIENT + PUBLIC), folder / ALLOWED / (name + PUBLIC))
    made.rename(home)  # last: a client whose making was interrupted is made again


def _pair(folder: Path, name: str) -> Path:
    """Return a new folder inside `folder` with a new key pair, for this user's eyes only."""
    made = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))  # mode 0700 before there is a secret in it
    for file in create_certificates(made, name):
        Path(file).chmod(0o600)
    return made
