"""A dataset entry and experiments proposed from the user's files: what was seen in them, and guesses that say so."""
