"""The generic batcher mosec with Grove's network: `python -m grove.bench.peers.mosec`, told through the environment.

Requests are raw bytes, the least that HTTP can carry: mosec's own form of them (msgpack is an option) costs nothing.
"""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker

from grove.bench.peers.lane import LaneNetwork, told


class Lane(Worker):
    """One process with the network on one core."""

    def __init__(self) -> None:
        super().__init__()
        self._network = LaneNetwork()

    def deserialize(self, data: bytes) -> Any:
        """Rows come as they are."""
        return data

    def serialize(self, data: Any) -> bytes:
        """Answers go as they are."""
        return bytes(data)

    def forward(self, data: Any) -> Any:
        """Evaluate a batch of messages (a list), or one (when batches are of one)."""
        return self._network.answer(data) if isinstance(data, list) else self._network.answer([data])[0]


if __name__ == "__main__":
    job = told()
    server = Server()
    server.append_worker(Lane, num=job["lanes"], max_batch_size=job["max_messages"], max_wait_time=job["wait_ms"])
    server.run()
