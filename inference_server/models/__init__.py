"""Weights on disk and in the server.

`model_file` reads and writes safetensors with a content hash, `model_folder` lists a watched folder, `models` takes a
new model while the server works.
"""
