"""HSTU, the Hierarchical Sequential Transduction Unit, as a ranking model on the batches of this project."""

from model_zoo.HSTU.HSTU import HSTU

__all__ = ["HSTU"]
