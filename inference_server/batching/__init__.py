"""From single rows to batches: `policy` says when a batch leaves, `batcher` keeps the rows, `lanes` compute them."""
