"""The processes of a run: how many, how they start, how they are watched and started again."""
