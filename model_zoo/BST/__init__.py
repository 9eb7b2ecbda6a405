"""BST, the Behavior Sequence Transformer, on the batches of this project."""

from model_zoo.BST.BST import BST

__all__ = ["BST"]
