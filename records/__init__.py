"""One finished game is one line of JSON in an append-only log.

`record` encodes and decodes a line, `log` appends it, `files` finds and reads logs wherever they lie, `scan` counts
every game once, `replay` plays a game again by its rules; `stats`, `mark`, `repair` and `export` do what they say.
"""
