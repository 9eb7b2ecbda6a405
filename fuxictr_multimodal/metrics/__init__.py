"""Metrics on arrays, with FuxiCTR's values and without its loops."""
