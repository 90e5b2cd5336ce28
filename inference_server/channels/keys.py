"""CURVE keys: what server and clients know each other by, and the list of clients that are let in.

The files are those of pyzmq's `zmq.auth`; `grove keys` makes the folders:

    DIR/server.key, server.key_secret       the server's key pair
    DIR/allowed/NAME.key                    public keys of the clients that are let in, one file a client
    DIR/clients/NAME/                       what client NAME needs: client.key_secret and server.key

Files with a secret key must be readable by their owner only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.auth import load_certificate, load_certificates
from zmq.utils import z85

from grove.common.errors import SettingError

SERVER, CLIENT, ALLOWED, CLIENTS = "server", "client", "allowed", "clients"
SECRET = ".key_secret"
PUBLIC = ".key"


class ClientKeys(NamedTuple):
    """What a client needs to be let in, in ZeroMQ's text form (Z85, 40 bytes each)."""

    public: bytes
    secret: bytes
    server: bytes
    """The server's public key: no other server is believed."""

    @classmethod
    def read(cls, folder: str) -> ClientKeys:
        """Return the keys in `folder`, one of DIR/clients/.

        Raises:
            SettingError: they are missing, damaged, or readable by others.
        """
        path = _folder(folder, CLIENT, f"give the folder of one client, such as {folder}/{CLIENTS}/NAME")
        public, secret = _pair(path / (CLIENT + SECRET))
        return cls(public, secret, _public_key(path / (SERVER + PUBLIC)))

    def lock(self, socket: zmq.Socket[bytes]) -> None:
        """Let `socket` speak only to the server of these keys; before it connects."""
        socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = self


class ServerKeys:
    """The server's key pair and who is let in; asked by the authenticator of a channel, in its thread."""

    def __init__(self, folder: str) -> None:
        """Read the keys in `folder`.

        Raises:
            SettingError: they are missing, damaged, readable by others, or nobody is let in.
        """
        path = _folder(folder, SERVER, "make it with `grove keys DIR`")
        self._pair = _pair(path / (SERVER + SECRET))
        self._list = path / ALLOWED
        self._read_ns = -1
        self.refused: Callable[[], None] = lambda: None
        """Called when a client is not let in."""
        self._allowed: frozenset[bytes] = frozenset()
        try:
            for file in self._list.glob("*" + PUBLIC):
                _public_key(file)
            self._refresh()
        except OSError as error:
            raise SettingError.of("keys", folder, f"{ALLOWED}/ cannot be read ({error.strerror})", _REMEDY) from None
        if not self._allowed:
            raise SettingError.of("keys", folder, f"{ALLOWED}/ lets nobody in", _REMEDY)

    def lock(self, socket: zmq.Socket[bytes]) -> None:
        """Let `socket` speak only to clients with keys; before it binds."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self._pair

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether the client with the public `key` is let in; the name is zmq.auth's. Never raises."""
        with contextlib.suppress(OSError, ValueError):  # somebody is at work in the folder: the list as it was
            self._refresh()
        if key not in self._allowed:
            self.refused()
        return key in self._allowed

    def _refresh(self) -> None:
        """Read the list again when files came or went."""
        changed_ns = os.stat(self._list).st_mtime_ns
        if changed_ns != self._read_ns:
            self._allowed = frozenset(load_certificates(self._list))
            self._read_ns = changed_ns


_REMEDY = "make keys with `grove keys DIR --clients NAME`"


def _folder(folder: str, name: str, remedy: str) -> Path:
    path = Path(folder)
    if not (path / (name + SECRET)).is_file():
        raise SettingError.of("keys", folder, f"it holds no {name}{SECRET}", remedy)
    return path


def _pair(path: Path) -> tuple[bytes, bytes]:
    """Return public and secret key of a file that only its owner may read."""
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise SettingError.of("keys", str(path), "others may read it", f"chmod 600 {path}, or make new keys")
    public, secret = _load(path)
    if secret is None:
        raise SettingError.of("keys", str(path), "it holds no secret key", _REMEDY)
    return public, secret


def _public_key(path: Path) -> bytes:
    return _load(path)[0]


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
        for key in (public, secret):
            if key is not None and len(z85.decode(key)) != 32:
                raise ValueError("a key has another length")
    except (OSError, ValueError, KeyError) as error:  # KeyError: a character that no key has
        raise SettingError.of("keys", str(path), f"it is no key file ({error})", _REMEDY) from None
    return public, secret
