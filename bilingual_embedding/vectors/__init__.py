"""Texts to vectors, and vectors to item tables."""
