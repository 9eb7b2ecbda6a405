"""RankMixer: tokens of features that are mixed without parameters, on the batches of this project."""

from model_zoo.RankMixer.RankMixer import RankMixer

__all__ = ["RankMixer"]
