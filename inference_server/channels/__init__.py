"""The two ways in: `inproc` for threads of the server's own process, ZeroMQ for other processes and machines."""
