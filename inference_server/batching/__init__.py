"""From single rows to batches and back.

`policy` decides when a batch leaves (pure: no clock, no thread), `pending_batches` holds the waiting rows, `request`
puts the parts of an answer together, `batcher` guards all three with one lock, `lanes` compute, `repair` finds the rows
at fault in a batch that failed.
"""
