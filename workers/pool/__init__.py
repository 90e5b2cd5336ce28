"""The processes of a run: how many, how they start, how they are watched over and started again.

`settings` and `sizing` lead to a `plan`; `pool` carries it out; `supervision` knows each child over all its lives.
Children come from `fork_server` (which runs `preload` and `preload_server`), begin in `server_entry` and
`worker_entry`, and end with their parent (`children`, `parent_watch`); `search_threads` are workers inside the server's
process. `figures` and `sampler` turn counters into what people read.
"""
