"""`grove tune`: the fastest settings for a load are searched."""
