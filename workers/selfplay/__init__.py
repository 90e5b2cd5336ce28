"""The self-play loop of one worker: groups of games, where their rows are evaluated, and which games are next."""
