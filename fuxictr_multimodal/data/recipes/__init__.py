"""Recipes from raw files to a dataset, and what they have in common."""
