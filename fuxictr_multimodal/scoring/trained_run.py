"""A trained run that scores, named so that another process can open it too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything

from fuxictr_multimodal.scoring.new_samples import new_samples
from fuxictr_multimodal.scoring.published_weights import import_weights
from fuxictr_multimodal.scoring.raw_rows import RawRows, Reading
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.trained import load_trained
from fuxictr_multimodal.training.trainer import Trainer


@dataclass(frozen=True)
class TrainedRun:
    """What a command says about the run and its weights; see `predict`."""

    config_dir: Path
    expid: str
    gpu: int = -1
    seed: int | None = None
    overrides: Sequence[str] = ()
    name: str | None = None
    imported: Path | None = None

    def anywhere(self) -> TrainedRun:
        """The same run for a process in another folder."""
        imported = None if self.imported is None else self.imported.absolute()
        return replace(self, config_dir=self.config_dir.absolute(), imported=imported)

    def experiment(self) -> Experiment:
        """The experiment of the run.

        Raises:
            InputError: an error in the configuration or the dataset.
        """
        return Experiment.load(
            self.config_dir, self.expid, gpu=self.gpu, seed=self.seed, overrides=self.overrides, name=self.name
        )

    def load(self, experiment: Experiment, *, otherwise: str = "") -> LoadedRun:
        """The model with its weights.

        Args:
            experiment: of the run.
            otherwise: what else a user can do if nothing was trained.

        Raises:
            InputError: no checkpoint, one of another dataset, or wrong published weights.
        """
        # A model may draw numbers while it is built; scoring is the same at every call.
        seed_everything(seed=experiment.params["seed"])
        feature_map = experiment.feature_map()
        model, to_inputs = experiment.build_model(feature_map)
        if self.imported is not None:
            import_weights(model, self.imported)
        else:
            load_trained(experiment, model, otherwise=otherwise)
        return LoadedRun(experiment, feature_map, model, to_inputs)


@dataclass(frozen=True)
class LoadedRun:
    """A model with its weights, what it scores, and what files of samples leave for the next ones."""

    experiment: Experiment
    feature_map: FeatureMap
    model: BaseModel
    to_inputs: Callable[[Any], Any]
    kept: dict[str, Any] = field(default_factory=dict)

    def trainer(self, engine: str) -> Trainer:
        """What scores with an engine of `predict`."""
        scorer = scorer_of(self.experiment, self.model, engine)
        return Trainer(self.model, to_inputs=self.to_inputs, epochs=1, scorer=scorer)

    def samples(self, data: Path, history_column: str | None) -> RawRows:
        """New samples.

        Raises:
            DataError: the samples are missing or of another form.
        """
        reading = Reading(
            store=self.experiment.store,
            feature_map=self.feature_map,
            batch_size=self.experiment.params["batch_size"],
            max_len=self.experiment.max_len,
            device=torch.device(self.model.device),
            kept=self.kept,
        )
        return new_samples(data, reading, params=self.experiment.params, history_column=history_column)


def scorer_of(experiment: Experiment, model: BaseModel, engine: str) -> Callable[[Any], Any]:
    """What turns inputs into scores: the folded form where there is one; a dataset without items has none."""
    if engine != "model" and hasattr(model, "fold") and experiment.store.manifest.item_col is not None:
        return model.fold()
    return model.forward
