"""The line to a server: connecting, and what the socket's monitor tells of connections made, broken and refused."""

from __future__ import annotations

import zmq
from zmq.utils.monitor import recv_monitor_message

from grove.common.errors import HandshakeError
from grove.inference_server.channels.keys import ClientKeys

_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_WATCHED = _REFUSED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


class ConnectionMonitor:
    """What a connecting socket's monitor tells; used by the socket's thread."""

    def __init__(self, dealer: zmq.Socket[bytes]) -> None:
        """Listen to `dealer` from now on; before it connects."""
        self._dealer = dealer
        self.events: zmq.Socket[bytes] = dealer.get_monitor_socket(_WATCHED)
        """Readable when `broke` has something to take in."""
        self.up = False
        """Whether there is a connection, as far as `broke` was asked."""
        self.hint = ""
        """What may be wrong when no handshake succeeds."""

    def broke(self) -> bool:
        """Take in what happened since the last call; return whether a connection ended.

        Raises:
            HandshakeError: the server does not know our key; it would not be tried again.
        """
        ended = False
        while self.events.poll(0):
            kind = recv_monitor_message(self.events)["event"]
            if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise HandshakeError("the server does not let this key in; add it with `grove keys` where it runs")
            if kind & _REFUSED:
                self.hint = " What listens there ends every handshake: do its keys and ours (--keys) belong together?"
            ended |= self.up and kind == zmq.EVENT_DISCONNECTED
            self.up = kind == zmq.EVENT_HANDSHAKE_SUCCEEDED
        return ended

    def close(self) -> None:
        """Stop listening; before the socket closes."""
        self._dealer.disable_monitor()
        self.events.close(0)


def connect(dealer: zmq.Socket[bytes], endpoint: str, keys: ClientKeys | None) -> ConnectionMonitor:
    """Connect and return what listens to the line.

    Raises:
        HandshakeError: `endpoint` is malformed.
    """
    if keys is not None:
        keys.lock(dealer)
    monitor = ConnectionMonitor(dealer)
    try:
        dealer.connect(endpoint)
    except zmq.ZMQError as error:
        monitor.close()
        raise HandshakeError(
            f"cannot connect to {endpoint!r} ({error}); use what the server said it listens on"
        ) from None
    return monitor
