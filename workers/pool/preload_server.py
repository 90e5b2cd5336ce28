"""Imported by the fork server for servers only: torch, and all else that a server's process needs. Touches no
device."""

from contextlib import suppress

from grove.workers.pool.parent_watch import ended_with_parent

with ended_with_parent(), suppress(Exception):  # one that cannot be imported is left to the server, which can say so
    import grove.inference_server.backends.backend
    import grove.workers.pool.server_entry

__all__ = ["grove"]
