"""The server's socket: where clients come in, who is let in, and how much of them may wait.

One ROUTER with a ZeroMQ context of its own. With keys it speaks CURVE, and an authenticator (pyzmq's, with a thread
of its own) asks the list of clients at every handshake.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq
from zmq.auth.thread import ThreadAuthenticator

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
_SMALLEST_FRAME_LIMIT = 1 << 16


class Listener:
    """A bound ROUTER socket; used by one thread once it is made."""

    def __init__(
        self,
        endpoint: str,
        keys: ServerKeys | None,
        spec: RowSpec,
        settings: ServerSettings,
        count: Callable[[str], None],
    ) -> None:
        """Bind `endpoint`; `count` is called with the cause when a client is not let in.

        Raises:
            SettingError: the endpoint is in use, malformed, or, without keys, not on this machine.
        """
        check_endpoint(endpoint, keys is not None)
        self._lock_file = lock_endpoint(endpoint)
        self._context = zmq.Context()
        self._authenticator = self._guard(keys, count)
        self.router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._configure(spec, settings)
        if keys is not None:
            keys.lock(self.router)
        self.endpoint = self._bind(endpoint)

    def _guard(self, keys: ServerKeys | None, count: Callable[[str], None]) -> ThreadAuthenticator | None:
        if keys is None:
            return None
        keys.refused = lambda: count("refused_key")
        authenticator = ThreadAuthenticator(self._context)
        authenticator.start()
        authenticator.configure_curve_callback(credentials_provider=keys)
        return authenticator

    def _configure(self, spec: RowSpec, settings: ServerSettings) -> None:
        largest = settings.max_request_rows * max(spec.row_bytes, 4 * spec.num_actions, 16)
        for option, value in (
            (zmq.LINGER, _LINGER_MS),
            (zmq.ROUTER_MANDATORY, 1),  # otherwise answers to lost clients vanish uncounted
            (zmq.ROUTER_HANDOVER, 1),  # a client that reconnects keeps its place
            # A larger frame ends its connection before anything is allocated for it.
            (zmq.MAXMSGSIZE, min(max(largest, _SMALLEST_FRAME_LIMIT), settings.max_message_mb << 20)),
            (zmq.RCVHWM, _UNREAD_MESSAGES),
            (zmq.SNDHWM, 2 * settings.max_window),  # answers that wait for a client to read them
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

    def close(self) -> None:
        """End all connections and free the endpoint."""
        self.router.close()
        self._end(self.endpoint)

    def _end(self, endpoint: str) -> None:
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
        unlock_endpoint(endpoint, self._lock_file)
