"""Stages, losses, sampling and mining, and the run that strings them together."""
