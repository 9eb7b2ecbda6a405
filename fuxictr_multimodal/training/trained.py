"""Load the weights of a finished run, checked against the build of the dataset on which it was trained."""

from __future__ import annotations

import logging
from pathlib import Path

from fuxictr.pytorch.models import BaseModel

from fuxictr_multimodal.errors import DataError, did_you_mean
from fuxictr_multimodal.training.checkpoint import REMEDY, load_checkpoint
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.report import Report


def load_trained(experiment: Experiment, model: BaseModel, *, otherwise: str = "") -> None:
    """Load the weights that a run of this experiment trained.

    Args:
        experiment: whose run is meant.
        model: built from it.
        otherwise: what else a user can do if nothing was trained.

    Raises:
        DataError: there is no checkpoint, it was trained on another build of the dataset or on histories of another
            length, or it does not fit the model.
    """
    path = Path(model.checkpoint)
    if not path.is_file():
        other = f", or {otherwise}" if otherwise else ""
        trained = [file.stem for file in path.parent.glob("*.model")]
        raise DataError(
            f"{path} does not exist: train it first with run_expid.py --expid {experiment.expid} and the same "
            f"options{other}. {did_you_mean(experiment.run, trained)}".strip()
        )
    report_path = experiment.files.report
    if report_path.exists():
        report, manifest = Report.read(report_path), experiment.store.manifest
        if report.manifest_hash != manifest.hash:
            raise DataError(
                f"{path} was trained on another build of dataset {experiment.params['dataset_id']!r}: its ids may "
                "differ; train again, or rebuild that dataset"
            )
        slots = report.config.get("max_len") or manifest.max_len
        # A dataset without histories has no slots.
        if manifest.max_len and slots != experiment.max_len:
            raise DataError(
                f"{path} was trained with max_len {slots}, but max_len is {experiment.max_len} now, which cuts "
                f"histories otherwise: set max_len: {slots} again, or train again"
            )
    else:
        logging.warning("%s does not exist: the dataset build that %s was trained on is unknown", report_path, path)
    load_checkpoint(model, remedy=f"{REMEDY}, or name the experiment and the settings that it was trained with")
