"""The one process that owns model and device: batching, lanes, and the channels to it.

`InferenceServer` evaluates the rows of all its clients in large batches. Search threads of its own process get an
`InprocClient` from `InferenceServer.connect`; worker processes make a `ZmqClient` for an endpoint that
`InferenceServer.bind` opened. Both are a `Client`: `submit` rows, `collect` replies. This room knows rows
(`RowSpec`), not games. Importing it does not import torch: networks and backends have their own modules.
"""

from inference_server.client import Client, Legal, Reply
from inference_server.endpoint import private_endpoint
from inference_server.inproc import InprocClient
from inference_server.rows import RowSpec
from inference_server.server import InferenceServer
from inference_server.settings import ServerSettings
from inference_server.zmq_client import Patience, ZmqClient

__all__ = [
    "Client",
    "InferenceServer",
    "InprocClient",
    "Legal",
    "Patience",
    "Reply",
    "RowSpec",
    "ServerSettings",
    "ZmqClient",
    "private_endpoint",
]
