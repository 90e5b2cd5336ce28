"""The generic batcher LitServe with Grove's network: `python -m grove.bench.peers.litserve`, told through the
environment.

It decodes JSON, so rows and answers travel as base64 text.
"""

from __future__ import annotations

import base64
from typing import Any

import litserve

from grove.bench.peers.lane import LaneNetwork, told


class Api(litserve.LitAPI):
    """What one process with the network on one core does."""

    def setup(self, device: Any) -> None:
        """Load the network."""
        self._network = LaneNetwork()

    def decode_request(self, request: dict[str, str], **_: Any) -> bytes:
        """Return the rows of one message."""
        return base64.b64decode(request["rows"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Messages are put together when they are evaluated."""
        return inputs

    def predict(self, x: Any, **_: Any) -> Any:
        """Evaluate a batch of messages (a list), or one (when batches are of one)."""
        return self._network.answer(x) if isinstance(x, list) else self._network.answer([x])[0]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Return one answer a message."""
        return output

    def encode_response(self, output: bytes, **_: Any) -> dict[str, str]:
        """Return what becomes JSON."""
        return {"answers": base64.b64encode(output).decode()}


if __name__ == "__main__":
    job = told()
    most = job["max_messages"]
    api = Api(max_batch_size=most, batch_timeout=job["wait_ms"] / 1000 if most > 1 else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=job["lanes"], timeout=False)
    server.run(host="127.0.0.1", port=job["port"], num_api_servers=1, generate_client_file=False, log_level="error")
