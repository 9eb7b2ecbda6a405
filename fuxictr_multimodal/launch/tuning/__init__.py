"""Batch tuning on FuxiCTR's tuner files: trials as processes, restart, summary, search."""
