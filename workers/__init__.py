"""Self-play: `selfplay` is the loop of one worker, `pool` the processes that run it and are watched over."""
