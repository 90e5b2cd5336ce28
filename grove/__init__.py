"""Self-play data for AlphaZero-style training: many search workers share one batching inference server."""
