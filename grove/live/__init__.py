"""Views of a run while it goes on: in its terminal, in another one, as a web page."""
