"""`grove bench peers`: Grove beside other projects with the same game and network."""
