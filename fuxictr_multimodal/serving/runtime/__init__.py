"""Ranks with an exported model; an export takes this folder with it, so it needs nothing else of this project."""
