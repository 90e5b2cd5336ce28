"""What workers and server agree on. Nothing here imports torch, so every process may read it.

From the ground up: `rows` (what one row of a game looks like), `client` (the contract `Client` and its `Answer`),
`buckets` (batch sizes), `settings` and `network_settings`, `stats` (the server's counters).
"""
