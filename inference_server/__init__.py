"""The one process that owns model and device: batching, lanes, and the channels to it.

`InferenceServer` evaluates the rows of all its clients in large batches. Search threads of its own process get an
`InprocClient` from `InferenceServer.connect`; worker processes make a `ZmqClient` for an endpoint that
`InferenceServer.bind` opened. Both are a `Client`: `submit` rows, `collect` answers. This room knows rows
(`RowSpec`), not games. Importing it does not import torch: networks and backends have their own modules.
"""

from grove.inference_server.channels.endpoint import private_endpoint
from grove.inference_server.channels.inproc import InprocClient
from grove.inference_server.channels.zmq_client import Patience, ZmqClient
from grove.inference_server.interface.client import Answer, Client, Legal
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.interface.settings import ServerSettings
from grove.inference_server.server import InferenceServer

__all__ = [
    "Answer",
    "Client",
    "InferenceServer",
    "InprocClient",
    "Legal",
    "Patience",
    "RowSpec",
    "ServerSettings",
    "ZmqClient",
    "private_endpoint",
]
