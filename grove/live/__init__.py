"""Views of a run while it goes on: `view` in its own terminal, `reader` for other processes, `web` as a page."""
