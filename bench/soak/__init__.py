"""`grove bench soak`: a run is harmed again and again and must lose no game."""
