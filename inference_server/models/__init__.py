"""Weights on disk and in the server: model files, the watched folder, taking a new model while the server works."""
