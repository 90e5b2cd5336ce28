"""Blob, a form of Oh Hell for 3 to 8 players with hidden hands: `Blob` is the game."""

from grove.game.blob.game import Blob

__all__ = ["Blob"]
