"""Scores of an encoder, and the comparison of several."""
