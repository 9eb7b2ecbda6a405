"""Settings of the trees, checked and described."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fuxictr_multimodal.config.binder import AS_WRITTEN, Count, Settings
from model_zoo.Trees.features import Group

Positive = Annotated[float, Field(gt=0, le=1), AS_WRITTEN]


class TreesSettings(Settings):
    """Settings of `model: Trees`, gradient-boosted trees on hand features. `epochs` is the largest number of trees, and
    training stops after `early_stop_patience` of them without a lower log loss on the validation split.
    """

    learning_rate: Positive = Field(0.1, description="What the values of a tree are multiplied with.")
    max_leaf_nodes: Annotated[int, Field(ge=2, le=4096)] = Field(31, description="Leaves of a tree at most.")
    min_samples_leaf: Count = Field(50, description="Training samples of a leaf at least.")
    l2_regularization: Annotated[float, Field(ge=0), AS_WRITTEN] = Field(
        1.0, description="L2 penalty on the values of the leaves."
    )
    max_features: Positive = Field(
        0.5, description="Fraction of the features that a split chooses from, at random by the seed."
    )
    without_features: list[Group] = Field(
        [], description="Groups of hand features that are left out, to see what they are worth."
    )
