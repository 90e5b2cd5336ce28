"""What workers and server agree on: rows, the client's protocol, settings, statistics. Nothing here imports torch."""
