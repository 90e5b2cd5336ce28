"""The server's socket: where clients come in, who is let in, and who has gone.

One ROUTER with a ZeroMQ context of its own. With keys it speaks CURVE, and an authenticator (pyzmq's, with a thread
of its own) asks the list of clients at every handshake. What the connections do is told by the socket's monitor:
ends of connections give the descriptors of those who went, failed handshakes are counted by cause.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from grove.common.errors import SettingError
from grove.inference_server.channels import protocol
from grove.inference_server.channels.endpoint import check_endpoint, in_use, lock_endpoint, unlock_endpoint
from grove.inference_server.channels.keys import ServerKeys
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.interface.settings import ServerSettings

_LINGER_MS = 500
_HANDSHAKE_MS = 10_000
"""Longest handshake: a connection that says nothing is ended then. 10 s: many round trips of a slow line."""
_UNREAD_MESSAGES = 16
"""Messages of one client read ahead of the channel; beyond it the sender's own TCP connection holds them."""
_UNSENT_BYTES = 64 << 20
_FEWEST_UNSENT = 8
_SMALLEST_FRAME_LIMIT = 1 << 16

_FAILED = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "refused_key",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "bad_handshake",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "bad_handshake",
    int(zmq.EVENT_ACCEPT_FAILED): "accept_failed",
}
"""Monitor events that are counted, by their cause in the error counters."""
_WATCHED = zmq.EVENT_DISCONNECTED | sum(_FAILED)


class Bounds(NamedTuple):
    """What one connection may make the server hold."""

    frame_bytes: int
    """Bytes of one received frame; a larger one ends the connection before anything is allocated for it."""
    unsent: int
    """Messages that wait for a client to read them; what comes then waits in the client's own window."""

    @classmethod
    def of(cls, spec: RowSpec, settings: ServerSettings) -> Bounds:
        """Return the bounds that let every honest client work: the largest request, and twice the largest window."""
        rows = settings.max_request_rows
        largest = max(rows * max(spec.row_bytes, 4 * spec.num_actions, 16), _SMALLEST_FRAME_LIMIT)
        unsent = _UNSENT_BYTES // (rows * answer_bytes(spec))
        most = 2 * settings.max_window + _FEWEST_UNSENT
        return cls(min(largest, settings.max_message_mb << 20), max(min(unsent, most), _FEWEST_UNSENT))


def answer_bytes(spec: RowSpec) -> int:
    """Return the bytes of the answer to one row."""
    return 4 * (spec.num_actions + spec.value_size)


class Listener:
    """A bound ROUTER socket; used by one thread once it is made."""

    def __init__(self, endpoint: str, keys: ServerKeys | None, bounds: Bounds, count: Callable[[str], None]) -> None:
        """Bind `endpoint`; `count` is called with the cause of every connection that was not let in.

        Raises:
            SettingError: the endpoint is in use, malformed, or, without keys, not on this machine.
        """
        check_endpoint(endpoint, keys is not None)
        self._count = count
        self._lock_file = lock_endpoint(endpoint)
        self._context = zmq.Context()
        self._authenticator = self._guard(keys)
        self.router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._configure(bounds)
        if keys is not None:
            keys.lock(self.router)
        self.endpoint = self._bind(endpoint)
        self.events: zmq.Socket[bytes] = self.router.get_monitor_socket(_WATCHED)
        """Readable when `gone` has something to say."""

    def _guard(self, keys: ServerKeys | None) -> ThreadAuthenticator | None:
        if keys is None:
            return None
        authenticator = ThreadAuthenticator(self._context)
        authenticator.start()
        authenticator.configure_curve_callback(credentials_provider=keys)
        return authenticator

    def _configure(self, bounds: Bounds) -> None:
        for option, value in (
            (zmq.LINGER, _LINGER_MS),
            (zmq.ROUTER_MANDATORY, 1),  # otherwise replies to lost clients vanish uncounted
            (zmq.ROUTER_HANDOVER, 1),  # a client that reconnects keeps its place
            (zmq.MAXMSGSIZE, bounds.frame_bytes),
            (zmq.RCVHWM, _UNREAD_MESSAGES),
            (zmq.SNDHWM, bounds.unsent),
            (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
            # No ZMTP heartbeats: with one due on a connection that broke while its input was stopped, libzmq 4.3.5
            # aborts the process (!_io_error; libzmq #3596, #3937). Our own pings tell who is silent.
            (zmq.TCP_MAXRT, protocol.LINE_DEAD_MS),
            (zmq.TCP_KEEPALIVE, 1),  # gives back connections whose other side vanished without a word
        ):
            self.router.setsockopt(option, value)

    def _bind(self, endpoint: str) -> str:
        try:
            self.router.bind(endpoint)
        except zmq.ZMQError as error:
            self.router.close(0)
            self._end(endpoint)
            if error.errno == zmq.EADDRINUSE:
                raise in_use(endpoint) from None
            raise SettingError.of("bind", endpoint, str(error), "choose another endpoint") from None
        return str(self.router.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")

    def gone(self) -> Iterator[int]:
        """Yield the descriptors of connections that ended since the last call."""
        while protocol.has_message(self.events):
            event = recv_monitor_message(self.events, zmq.NOBLOCK)
            kind = int(event["event"])
            if kind in _FAILED:
                self._count(_FAILED[kind])
            else:
                yield int(event["value"])

    def end(self, fd: int) -> None:
        """End the connection with that descriptor, if it is one of this listener; its client may come again.

        The descriptor may have become another connection's a moment ago: that client comes again, too.
        """
        try:
            connection = socket.socket(fileno=fd)
        except (OSError, ValueError):  # it is over, or never was a socket
            return
        try:
            name = connection.getsockname()
            if self.endpoint.endswith(f":{name[1]}" if isinstance(name, tuple) else f"//{name}"):
                connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is over
            return
        finally:
            connection.detach()

    def close(self) -> None:
        """End all connections and free the endpoint."""
        self.router.disable_monitor()
        self.events.close(0)
        self.router.close()
        self._end(self.endpoint)

    def _end(self, endpoint: str) -> None:
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
        unlock_endpoint(endpoint, self._lock_file)
