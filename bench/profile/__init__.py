"""`grove profile`: where the time of workers and server goes."""
