"""One finished game is one line of JSON in an append-only log: written, found, counted, checked, repaired, exported."""
