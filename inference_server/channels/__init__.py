"""The two ways in, with one contract.

`inproc` is for search threads of the server's own process. For other processes and machines: `protocol` (messages and
their frames), `endpoint` (addresses), `keys` (who is let in), `listener` and `zmq_channel` (the server's end),
`zmq_client` (the worker's end).
"""
