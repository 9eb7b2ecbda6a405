"""Samples that are ready to a dataset: their tables, histories and event features."""
