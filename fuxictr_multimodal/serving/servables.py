"""The graph of a trained experiment: folded where its model can be, else the model's own forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.serving.plain import plain_servable
from fuxictr_multimodal.training.at_once import fits_at_once

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.models import BaseModel

    from fuxictr_multimodal.training.experiment import Experiment
    from fuxictr_multimodal.zoo.servable import Servable


def servable_of(experiment: Experiment, model: BaseModel, feature_map: FeatureMap) -> Servable:
    """What the exports take of a trained model.

    Args:
        experiment: names the dataset and what the model reads.
        model: of the experiment, trained, on the CPU, with its item table attached where it takes one.
        feature_map: of the experiment.

    Raises:
        InputError: the model has no graph, with the reason.
    """
    if fits_at_once(model):
        raise InputError(
            f"{type(model).__name__} cannot be exported: its features are counted over the training split, which an "
            "export does not hold; export another model, or score files with fxmm predict --data"
        )
    with_items = experiment.store.manifest.item_col is not None
    if with_items and hasattr(model, "fold"):
        return model.eval().fold().servable()
    if with_items and experiment.zoo_model.layout == "batch":
        raise InputError(
            f"{type(model).__name__} at {experiment.params.get('zoo_root')} reads batches of ids but has no `fold`: "
            "copy this version's model_zoo/QIN there, or leave out zoo_root"
        )
    table = experiment.item_table(feature_map, "cpu")
    return plain_servable(model, experiment.zoo_model, feature_map, table, max_len=experiment.max_len)
