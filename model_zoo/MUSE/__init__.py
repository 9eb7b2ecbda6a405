"""MUSE: similarities in pretrained embeddings inside the attention and beside it, on the batches of this project."""

from model_zoo.MUSE.MUSE import MUSE

__all__ = ["MUSE"]
