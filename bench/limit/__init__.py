"""`grove bench limit`: every part of self-play alone, then the whole, and which of them binds."""
