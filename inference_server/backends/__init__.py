"""What computes a batch: CPU and CUDA lanes, number formats, compilation. `backend.make_backends` chooses."""
