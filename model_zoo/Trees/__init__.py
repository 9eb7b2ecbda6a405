"""Gradient-boosted trees on hand features: the cheap peer of the networks."""

from model_zoo.Trees.Trees import Trees

__all__ = ["Trees"]
