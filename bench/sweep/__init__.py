"""`grove bench sweep`: one setting after another is varied."""
