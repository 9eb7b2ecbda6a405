"""Batch tuning on the toolkit's tuner files: trials as processes, restart, summary, search."""
