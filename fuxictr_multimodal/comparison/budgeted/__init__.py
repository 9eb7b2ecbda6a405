"""A comparison from a dataset entry and a number of hours."""
