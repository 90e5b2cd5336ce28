"""Where a server listens: addresses, private socket folders, and the lock against taking over a running server."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import zmq

from grove.common.errors import SettingError
from grove.common.scratch import scratch_folder

_MAX_IPC_PATH = 107
_OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)


@contextmanager
def private_endpoint() -> Iterator[str]:
    """Yield an endpoint for processes of this user on this machine.

    Linux and macOS: a socket in a new folder that only this user can enter, removed afterwards. Elsewhere: a free
    TCP port of the loopback interface.
    """
    if sys.platform == "win32" or not zmq.has("ipc"):
        yield "tcp://127.0.0.1:*"
        return
    with scratch_folder() as folder:
        yield f"ipc://{folder}/s"


def check_endpoint(endpoint: str, with_keys: bool) -> None:
    """Refuse addresses that cannot be served.

    Raises:
        SettingError: unknown form, a path that is too long, or, without keys, an address other machines can reach.
    """
    scheme, _, address = endpoint.partition("://")
    if scheme == "ipc" and address:
        if len(os.fsencode(address)) > _MAX_IPC_PATH:
            raise SettingError.of("bind", endpoint, f"a socket path has at most {_MAX_IPC_PATH} bytes", "shorten it")
        return
    if scheme != "tcp" or not _is_port(address.rpartition(":")[2]):
        raise SettingError.of("bind", endpoint, "it must read ipc://PATH or tcp://127.0.0.1:PORT", "correct it")
    if not with_keys and not _is_loopback(address.rpartition(":")[0]):
        raise SettingError.of(
            "bind", endpoint, "other machines are served only with keys",
            "make them with `grove keys DIR` and add --keys DIR, or bind tcp://127.0.0.1:PORT",
        )  # fmt: skip


def _is_port(text: str) -> bool:
    return text == "*" or (text.isdigit() and int(text) < 65536)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name or an interface: it may lead anywhere
        return False


def is_own_host(header: str) -> bool:
    """Whether the Host header of an HTTP request names this machine's loopback, with or without a port.

    A browser that was lured to 127.0.0.1 by a page whose name leads there (DNS rebinding) sends that page's name.
    """
    return _OWN_HOST.fullmatch(header) is not None


def lock_endpoint(endpoint: str) -> IO[str] | None:
    """Hold an ipc endpoint for this server: ZeroMQ would silently take over one that is in use.

    Returns the open lock file (closing it releases the lock), None for TCP, where the system refuses by itself.

    Raises:
        SettingError: another server holds it, or its folder cannot be written.
    """
    if not endpoint.startswith("ipc://"):
        return None
    import fcntl  # not on Windows, where there is no ipc either

    path = Path(endpoint.removeprefix("ipc://") + ".lock")
    try:
        handle = path.open("w")
    except OSError as error:
        raise SettingError.of("bind", endpoint, f"{error.strerror}", "choose a folder you can write") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise in_use(endpoint) from None
    return handle


def unlock_endpoint(endpoint: str, handle: IO[str] | None) -> None:
    """Release what `lock_endpoint` returned and remove socket and lock file."""
    if handle is not None:
        remove_socket(endpoint)
        handle.close()


def remove_socket(endpoint: str) -> None:
    """Remove socket and lock file of an ipc endpoint that this process holds."""
    if endpoint.startswith("ipc://"):
        path = endpoint.removeprefix("ipc://")
        for name in (path, path + ".lock"):
            Path(name).unlink(missing_ok=True)


def in_use(endpoint: str) -> SettingError:
    """Return the error for an endpoint that another server listens on."""
    return SettingError.of("bind", endpoint, "another process listens there", "stop it or choose another endpoint")
