"""`grove report`: runs and measurements as one HTML page."""
